import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from lmcli.cli import app
from tests import tiny_seq2seq
from tests.cli.commands import Ended, Stdin


class Cli(Protocol):
    def __call__(self, *argv: object, stdin: bytes = b"") -> Ended: ...


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard() -> Iterator[None]:
    """As in a shell: what `nohup` or a script has this process ignore, its children would ignore, too."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a user's store that does not exist yet."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Cli]:
    """The command line inside this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*argv: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr("sys.stdin", Stdin(stdin))
        code = app.run([str(word) for word in argv])
        out, err = capsysbinary.readouterr()
        return Ended(code, out.decode(), err.decode())

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def capitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From English into French, which is English in capitals with accents."""
    return tiny_seq2seq.write_translator(tmp_path_factory.mktemp("bundles") / "capitals")


@pytest.fixture(scope="session")
def polyglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From English or German into French, German (thirteen letters further) and Russian."""
    return tiny_seq2seq.write_polyglot(tmp_path_factory.mktemp("bundles") / "polyglot")
