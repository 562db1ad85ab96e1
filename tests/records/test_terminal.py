import pytest

from lmcli.records.terminal import escape_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve \U0001f600 \u200f\tb\n", "naïve \U0001f600 \u200f\tb\n"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x00\x7f", r"a\x0db\x00\u007f"),
        ("\x80\x9b31m\x9f\xa0", r"\u0080\u009b31m\u009f" + "\xa0"),
        ("\u202a\u202e\u2066\u2069", r"\u202a\u202e\u2066\u2069"),
    ],
    ids=["text", "c0", "cr nul del", "c1", "bidi"],
)
def test_escape_controls(text: str, shown: str) -> None:
    assert escape_controls(text) == shown
