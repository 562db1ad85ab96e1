import signal
from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text classifier that counts good and bad words."""
    return tiny.write_sentiment(tmp_path_factory.mktemp("bundles") / "moods")


@pytest.fixture(scope="session")
def strict_moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer that refuses every other word."""
    path = tmp_path_factory.mktemp("bundles") / "strict-moods"
    return tiny.write_sentiment(path, tokenizer=tiny.word_level(tiny.MOOD_WEIGHTS, refuses_unknown=True))


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token classifier that knows two persons and two places."""
    return tiny.write_ner(tmp_path_factory.mktemp("bundles") / "names")


@pytest.fixture(autouse=True, scope="session")
def _signals_as_in_a_terminal() -> None:
    """A job in the background ignores SIGINT, and so would every process that a test starts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
