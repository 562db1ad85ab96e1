"""`lmcli embed`: vectors in every format, and no model."""

from pathlib import Path

import pytest

from tests.cli.commands import Ended
from tests.cli.conftest import Cli
from tests.tiny_embedder import write_embedder


@pytest.fixture(autouse=True)
def _store(tmp_path: Path) -> None:
    write_embedder(tmp_path / "home" / "bundles" / "all-minilm-l6-v2")
    write_embedder(tmp_path / "home" / "bundles" / "mine")


@pytest.mark.parametrize(
    ("options", "given", "written"),
    [
        pytest.param([], "cat\n\ndog\n", "[3.0,4.0]\n\n[4.0,3.0]\n", id="text"),
        pytest.param(
            ["-I", "jsonl"],
            '{"text":"cat","id":1}\n{"text":"","id":2}\n',
            '{"text":"cat","id":1,"embedding":[3.0,4.0]}\n{"text":"","id":2,"embedding":null}\n',
            id="jsonl",
        ),
        pytest.param(
            ["-I", "csv"],
            "id,text\n1,cat\n2,\n",
            'id,text,embedding\n1,cat,"[3.0,4.0]"\n2,,\n',
            id="csv",
        ),
        pytest.param(
            ["-I", "tsv", "-m", "mine", "--as", "vector"],
            "id\ttext\n1\tcat dog\n",
            "id\ttext\tvector\n1\tcat dog\t[7.0,7.0]\n",
            id="tsv, another model and name",
        ),
        pytest.param(["-O", "jsonl"], "cat\n", '{"text":"cat","embedding":[3.0,4.0]}\n', id="text to jsonl"),
    ],
)
def test_each_record_has_its_vector(cli: Cli, options: list[str], given: str, written: str) -> None:
    assert cli("embed", *options, stdin=given.encode()) == Ended(0, written, "")


def test_without_the_model_the_hint_is_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_HOME", "nowhere")
    assert cli("embed", stdin=b"cat\n") == Ended(
        76,
        "",
        "lmcli: there is no bundle 'all-minilm-l6-v2'\n"
        "       `lmcli pull all-minilm-l6-v2` gets it (84 MB, Apache-2.0)\n",
    )


def test_a_classifier_embeds_nothing(cli: Cli) -> None:
    ended = cli("embed", "-m", "sentiment-en", stdin=b"cat\n")
    assert (ended.code, ended.err) == (
        76,
        "lmcli: sentiment-en is a bundle for text-classification, not for feature-extraction\n"
        "       `lmcli sentiment --model sentiment-en` runs it\n",
    )
