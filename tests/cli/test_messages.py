import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lmcli.cli.messages import making_room, say, set_log_format
from tests.cli.commands import Terminal


@pytest.fixture
def as_json() -> Iterator[None]:
    set_log_format("json")
    yield
    set_log_format("text")


Capture = pytest.CaptureFixture[str]


def entry(capsys: Capture) -> dict[str, Any]:
    """The one line that was printed, without its time."""
    [line] = capsys.readouterr().err.splitlines()
    found: dict[str, Any] = json.loads(line)
    del found["time"]
    return found


def test_a_message_is_one_line_with_its_hint_below(capsys: Capture) -> None:
    say("cannot open a\nb", hint="try\nc")
    assert capsys.readouterr().err == "lmcli: cannot open a\\nb\n       try\\nc\n"


def test_an_excerpt_stands_as_it_is_between_message_and_hint(capsys: Capture) -> None:
    say("an option without a value", excerpt="  translate to=\n            ^^^", hint="to=fr")
    assert capsys.readouterr().err == (
        "lmcli: an option without a value\n  translate to=\n            ^^^\n       to=fr\n"
    )


def test_people_are_not_told_level_and_context(capsys: Capture) -> None:
    say("3 answers look degenerate", level="warning", source="a.txt", line=3)
    assert capsys.readouterr().err == "lmcli: 3 answers look degenerate\n"


@pytest.mark.usefixtures("as_json")
def test_as_json_a_message_is_an_object_on_a_line(capsys: Capture) -> None:
    say("not valid JSON", level="warning", source="a.txt", line=3, code="invalid_json", share=0.5)
    assert entry(capsys) == {
        "level": "warning",
        "message": "not valid JSON",
        "source": "a.txt",
        "line": 3,
        "code": "invalid_json",
        "share": 0.5,
    }


@pytest.mark.usefixtures("as_json")
def test_as_json_line_breaks_are_kept(capsys: Capture) -> None:
    say("cannot open a\nb", excerpt="to=\n  ^\n", hint="try c")
    assert entry(capsys) == {
        "level": "error",
        "message": "cannot open a\nb",
        "excerpt": "to=\n  ^\n",
        "hint": "try c",
    }


@pytest.mark.usefixtures("as_json")
def test_what_is_not_known_is_left_out(capsys: Capture) -> None:
    say("ready", source=None, seconds=0)
    assert entry(capsys) == {"level": "error", "message": "ready", "seconds": 0}


@pytest.mark.usefixtures("as_json")
def test_the_time_is_that_of_utc(capsys: Capture) -> None:
    say("ready")
    time = json.loads(capsys.readouterr().err)["time"]
    assert time.endswith("Z")
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), Path(os.fsdecode(b"caf\xe9"))], ids=type)
def test_a_file_name_that_is_no_text_is_written_out(capsys: Capture, name: object) -> None:
    say(f"cannot open {name}", source=name)
    assert entry(capsys) == {"level": "error", "message": "cannot open caf\\udce9", "source": "caf\\udce9"}


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", b"caf\xc3\xa9"), ("latin-1", b"caf\\u00e9")])
def test_it_is_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: bytes) -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stderr", stream)
    say("no café")
    assert shown in data.getvalue()
    assert json.loads(data.getvalue())["message"] == "no café"


@pytest.mark.parametrize(
    ("log_format", "shown"),
    [("text", "a\\x1b[31m\\u009b"), ("json", '"a\\u001b[31m\\u009b"')],
)
def test_a_terminal_gets_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, log_format: Any, shown: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", open(os.dup(terminal.end), "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    set_log_format(log_format)
    say("a\x1b[31m\x9b")
    set_log_format("text")
    sys.stderr.close()
    assert shown in terminal.read()


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_stderr_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, is_closed: bool) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream if is_closed else None)
    say("nobody hears it")


def test_room_is_made_for_each_message_while_it_is_wanted(capsys: Capture) -> None:
    @contextmanager
    def room() -> Iterator[None]:
        sys.stderr.write("<")
        yield
        sys.stderr.write(">")

    with making_room(room):
        say("a")
    say("b")
    assert capsys.readouterr().err == "<lmcli: a\n>lmcli: b\n"
