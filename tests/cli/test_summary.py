"""The file of --summary: what is in it, and that every run which gets as far as its inputs ends with it."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from lmcli import __version__
from lmcli.cli.signals import Stopped
from lmcli.records.lock import locked
from tests.cli.commands import TIMEOUT, Ended, shell, start
from tests.cli.conftest import Cli

FAIL = "test:fail?every=2"
LINES = "One line\n\nTwo lines\nOne more\n"


@pytest.fixture(autouse=True)
def inputs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "in.txt").write_text(LINES)
    monkeypatch.setattr(Stopped, "exit_code", None)  # of a run in this process that was stopped


def summary() -> dict[str, Any]:
    """The summary, which is taken away, so that the next run has its own."""
    path = Path("s.json")
    document: dict[str, Any] = json.loads(path.read_bytes())
    path.unlink()
    return document


def test_all_that_a_summary_has(cli: Cli, moods: Path) -> None:
    Path("in.jsonl").write_text('{"text":"good"}\n{"text":"good bad"}\n{"txt":""}\n{"text":"great"}\n')
    pipeline = f"sentiment model={moods} as=mood | filter mood.score > 0.6 | ner model={FAIL}"
    assert cli("pipe", pipeline, "in.jsonl", "-o", "out.jsonl", "-q", "--summary", "s.json").code == 1
    document = summary()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document.pop("started"))
    seconds = document.pop("seconds")
    assert 0 < seconds < TIMEOUT
    assert document.pop("records_per_second") > 0
    manifest = json.loads((moods / "manifest.json").read_bytes())
    bundle = document["stages"][0]["bundle"]
    assert re.fullmatch("[0-9a-f]{64}", bundle.pop("sha256"))
    assert document == {
        "schema_version": 1,
        "lmcli": __version__,
        "command": "sentiment | filter | ner",
        "output": "out.jsonl",
        "status": "failed_records",
        "exit_code": 1,
        "records": 4,
        "failed": 2,
        "filtered": 1,
        "resumed_at": 0,
        "tokens": 11,
        "new_tokens": 0,
        "truncated": 0,
        "degenerate": 0,
        "stages": [
            {
                "command": "sentiment",
                "field": "mood",
                "bundle": {"name": manifest["name"], "precision": "fp32"},
                "results": 3,
                "cached": 0,
                "tokens": 10,
                "new_tokens": 0,
                "truncated": 0,
                "degenerate": 0,
                "dropped": 0,
                "flags": {},
            },
            {
                "command": "ner",
                "field": "entities",
                "bundle": {"name": FAIL},
                "results": 1,
                "cached": 0,
                "tokens": 1,
                "new_tokens": 0,
                "truncated": 0,
                "degenerate": 0,
                "dropped": 0,
                "flags": {},
            },
        ],
    }


def test_keys_come_in_one_order_and_on_lines_of_their_own(cli: Cli) -> None:
    cli("sentiment", "-m", "test:echo", "in.txt", "--summary", "s.json")
    text = Path("s.json").read_text()
    assert re.findall('^  "([a-z_]+)":', text, re.MULTILINE) == list(json.loads(text))
    assert text.endswith("\n}\n")


@pytest.mark.parametrize(
    ("argv", "code", "status", "records"),
    [
        (["in.txt"], 0, "complete", 4),
        (["-m", FAIL, "in.txt"], 1, "failed_records", 4),
        (["-m", FAIL, "in.txt", "--fail-fast"], 65, "error", 4),
        (["-m", FAIL, "in.txt", "--max-errors", "0"], 65, "error", 4),
        (["missing.txt"], 66, "error", 0),
        (["in.txt", "-o", "no/such"], 73, "error", 0),
        (["in.txt", "--errors", "no/such"], 73, "error", 0),
        (["cut.gz"], 65, "error", 0),
        (["in.txt", "--field", "x"], 2, "error", 0),
        (["in.txt", "-m", "test:ech"], 2, "error", 0),
        (["in.txt", "-m", "nonesuch"], 76, "error", 0),
        (["in.txt", "--resume"], 2, "error", 0),
        (["in.txt", "-o", "/dev/full"], 74, "error", 0),
        (["in.txt", "-o", "out", "--resume"], 0, "complete", 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_ending_has_a_summary(cli: Cli, argv: list[str], code: int, status: str, records: int) -> None:
    Path("cut.gz").write_bytes(b"\x1f\x8b\x08\x00\x00")
    Path("s.json").write_text("of the run before\n")
    assert cli("sentiment", "-m", "test:echo", "--summary", "s.json", *argv).code == code
    document = summary()
    assert (document["exit_code"], document["status"], document["records"]) == (code, status, records)
    keys = set(document)
    cli("sentiment", "-m", "test:echo", "in.txt", "--summary", "s.json")
    assert keys == set(summary())


def test_a_run_that_was_out_of_time_has_a_summary(cli: Cli) -> None:
    argv = ["sentiment", "-m", "test:slow?ms=100000", "in.txt", "--max-seconds", 0.3]
    assert cli(*argv, "--summary", "s.json").code == 75
    document = summary()
    assert (document["exit_code"], document["status"]) == (75, "try_again")


def test_a_run_that_found_another_one_leaves_the_summary_to_that(cli: Cli) -> None:
    Path("s.json").write_text("of the run before\n")
    with locked(Path("out.lmcli/lock")):
        ended = cli("sentiment", "-m", "test:echo", "in.txt", "-o", "out", "--summary", "s.json")
    assert ended.code == 75
    assert Path("s.json").read_text() == "of the run before\n"


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_run_that_was_stopped_has_a_summary(number: int, code: int, status: str) -> None:
    with start("sentiment", "-m", "test:echo", "--summary", "s.json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"One\nTwo\n")
        assert process.stdout.readline().endswith(b"\tOne\n")
        assert process.stdout.readline().endswith(b"\tTwo\n")
        process.send_signal(number)
        assert process.wait(TIMEOUT) in (code, -number)
    document = summary()
    assert (document["exit_code"], document["status"]) == (code, status)
    assert document["records"] in (1, 2)  # the signal may come before the last one is counted


def test_a_run_whose_reader_left_has_a_summary() -> None:
    script = 'yes | lmcli --summary s.json | head -n 1; echo "${PIPESTATUS[1]}"'
    assert shell(script, "sentiment", "-m", "test:echo").out.endswith("\n141\n")
    document = summary()
    assert (document["exit_code"], document["status"]) == (141, "reader_closed")
    assert document["records"] > 0


def test_a_closed_standard_output_has_a_summary() -> None:
    assert shell("lmcli in.txt --summary s.json >&-", "sentiment", "-m", "test:echo").code == 74
    document = summary()
    assert (document["exit_code"], document["status"], document["output"]) == (74, "error", None)


def test_the_summary_is_whole_or_the_one_before(cli: Cli) -> None:
    """It is replaced as a whole, and keeps its mode."""
    Path("s.json").write_text("of the run before\n")
    Path("s.json").chmod(0o640)
    with Path("s.json").open() as before:
        cli("sentiment", "-m", "test:echo", "in.txt", "--summary", "s.json")
        assert before.read() == "of the run before\n"
    assert Path("s.json").stat().st_mode & 0o777 == 0o640
    assert summary()["records"] == 4


def test_the_output_is_in_place_when_the_summary_comes() -> None:
    """Who waits for the summary reads it from a pipe here, and looks for the output then."""
    os.mkfifo("s.json")
    with start("sentiment", "-m", "test:echo", "in.txt", "-o", "out", "--summary", "s.json"):
        document = json.loads(Path("s.json").read_bytes())
        assert Path("out").read_text().count("\n") == 4
    assert document["status"] == "complete"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_the_summary_on_standard_output_comes_last(cli: Cli, name: str) -> None:
    ended = cli("sentiment", "-m", "test:echo", "in.txt", "-o", "out", "--summary", name)
    assert json.loads(ended.out)["records"] == 4


def test_there_is_no_folder_for_the_summary(cli: Cli) -> None:
    argv = ["sentiment", "-m", "test:echo", "in.txt", "-o", "out"]
    assert cli(*argv, "--summary", "no/s.json") == Ended(
        73, "", "lmcli: cannot create no/s.json: there is no such directory\n"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in.txt", "in.txt is also an input\n       write to another file"),
        ("names", "names is also an input\n       write to another file"),
        ("listed.txt", "listed.txt is also an input\n       write to another file"),
        ("out", "out cannot be both the output and the summary"),
        ("./log", "./log cannot be both the log of errors and the summary"),
    ],
)
def test_the_summary_replaces_nothing_that_the_run_reads_or_writes(cli: Cli, name: str, message: str) -> None:
    files = {"in.txt": LINES, "listed.txt": LINES, "names": "listed.txt\n", "out": "old\n"}
    for path, text in files.items():
        Path(path).write_text(text)
    argv = ["sentiment", "-m", "test:echo", "in.txt", "--files-from", "names", "-o", "out", "--errors", "log"]
    assert cli(*argv, "--summary", name) == Ended(73, "", f"lmcli: {message}\n")
    assert {path: Path(path).read_text() for path in files} == files


def test_the_summary_replaces_no_input_of_a_run_that_lacks_another(cli: Cli) -> None:
    assert cli("sentiment", "-m", "test:echo", "in.txt", "missing", "--summary", "in.txt").code == 73
    assert Path("in.txt").read_text() == LINES


def test_the_summary_does_not_replace_what_standard_input_or_output_is_redirected_to() -> None:
    for redirection in ("< in.txt --summary in.txt", "in.txt > out --summary out"):
        assert shell(f"lmcli {redirection}", "sentiment", "-m", "test:echo").code == 73
    assert Path("in.txt").read_text() == LINES


def test_results_from_the_cache_are_told(cli: Cli) -> None:
    for cached in (0, 3):
        cli("sentiment", "-m", "test:echo", "in.txt", "--cache", "--summary", "s.json")
        document = summary()
        assert (document["stages"][0]["results"], document["stages"][0]["cached"]) == (3, cached)


def test_a_complete_run_that_is_run_again_tells_of_itself(cli: Cli) -> None:
    argv = ["sentiment", "-m", "test:fail?every=3&unless=fixed", "in.txt", "-o", "out", "--resume", "-q"]
    found = []
    for is_fixed in (False, False, True):
        if is_fixed:
            Path("fixed").touch()
        cli(*argv, "--summary", "s.json")
        document = summary()
        found.append((document["records"], document["failed"], document["resumed_at"], document["tokens"]))
    assert found == [(4, 1, 0, 4), (4, 1, 3, 4), (4, 0, 3, 6)]
