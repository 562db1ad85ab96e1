"""Options that cannot apply are refused before a model is loaded."""

import pytest

from tests.cli.commands import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--field", "body"], "lmcli: --field is for JSONL, CSV and TSV, but the input is text\n"),
        (["--by", "doc", "-I", "csv"], "lmcli: --by is for text, but the input is csv\n"),
    ],
    ids=["field of a text", "records of a table"],
)
def test_an_option_that_cannot_apply_is_refused(arguments: list[str], message: str) -> None:
    ended = run("sentiment", *arguments, "-")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(message)
