"""Runs as cron starts them: without a home, a terminal, a PATH or anybody who looks; and what they say."""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.commands import LMCLI, TIMEOUT, Ended, run, start
from tests.cli.conftest import Cli

LINES = "good\n\nbad\n"
EXPECTED = "POSITIVE\t0.7311\tgood\n\nNEGATIVE\t0.7311\tbad\n"
LEVELS = {"error", "warning", "info"}


@pytest.fixture(autouse=True)
def inputs(work: Path) -> None:
    (work / "in.txt").write_text(LINES)


def cron(*argv: object, folder: str | Path = ".", environ: Mapping[str, str] | None = None) -> Ended:
    """Run lmcli in a session of its own, with nothing in its environment but what is given."""
    words = [*LMCLI, *map(str, argv)]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environ or {},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


# Where a run finds itself.


def test_an_empty_environment(moods: Path) -> None:
    assert cron("sentiment", "-m", moods, "in.txt") == Ended(0, EXPECTED, "")


@pytest.mark.parametrize(
    "environ",
    [
        {"HOME": ""},
        {"HOME": "/no/such"},
        {"PATH": ""},
        {"LC_ALL": "C"},
        {"TERM": "dumb"},
        {"TMPDIR": "/no/such"},
    ],
    ids=lambda environ: " ".join(environ),
)
def test_odd_environments(moods: Path, environ: dict[str, str]) -> None:
    job = ["sentiment", "-m", moods, "in.txt", "-o", "out", "--resume", "--summary", "s.json"]
    assert cron(*job, environ=environ) == Ended(0, "", "")
    assert Path("out").read_text() == EXPECTED


def test_a_model_that_is_shipped() -> None:
    ended = cron("sentiment", "in.txt")
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 3)


def test_a_cache_without_a_home_is_no_reason_to_fail(moods: Path) -> None:
    ended = cron("sentiment", "-m", moods, "in.txt", "--cache", environ={"HOME": "/no/such"})
    assert (ended.code, ended.out) == (0, EXPECTED)
    assert ended.err.count("\n") <= 2


def test_a_working_directory_that_cannot_be_written(work: Path, moods: Path) -> None:
    argv = ["sentiment", "-m", moods, work / "in.txt"]
    job = [*argv, "-o", work / "out", "--resume", "--errors", work / "log", "--summary", work / "s.json"]
    assert cron(*job, folder="/proc") == Ended(0, "", "")
    assert (work / "out").read_text() == EXPECTED
    assert cron(*argv, "-o", "out", folder="/proc") == Ended(
        73, "", "lmcli: cannot create out: No such file or directory\n"
    )


def test_a_working_directory_that_is_gone(work: Path, moods: Path) -> None:
    argv = ["sentiment", "-m", moods, work / "in.txt", "-o", work / "out", "--resume"]
    words = shlex.join([*LMCLI, *map(str, argv)])
    done = subprocess.run(
        ["bash", "-c", f"mkdir gone; cd gone; rmdir ../gone; {words}"],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (work / "out").read_text() == EXPECTED


def test_the_streams_are_closed(moods: Path) -> None:
    words = shlex.join([*LMCLI, "sentiment", "-m", str(moods), "in.txt", "-o", "out", "--resume"])
    assert (
        subprocess.run(["bash", "-c", f"{words} <&- >&- 2>&-"], timeout=TIMEOUT, check=False).returncode == 0
    )
    assert Path("out").read_text() == EXPECTED


# What a run says.


@pytest.mark.parametrize("options", [[], ["--resume"], ["--cache"], ["--errors", "log", "--max-errors", "3"]])
def test_success_is_silent(cli: Cli, moods: Path, options: list[str]) -> None:
    assert cli("sentiment", "-m", moods, "in.txt", "-o", "out", "--summary", "s.json", *options) == Ended(
        0, "", ""
    )


def test_a_recipe_for_the_night() -> None:
    """As in docs: try again while that helps, tell of everything else."""
    words = shlex.join(
        [*LMCLI, "sentiment", "-m", "test:slow?ms=5", "many.txt", "-o", "out", "--resume", "-q"]
    )
    Path("many.txt").write_text("line\n" * 300)
    script = f"until {words} --max-seconds 0.8; do [ $? = 75 ] || exit; echo again; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(done.stdout.decode().split()) == {"again"}
    assert len(Path("out").read_text().splitlines()) == 300


def messages(text: str) -> list[dict[str, object]]:
    """The JSON Lines of stderr, checked."""
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        assert list(each)[:3] == ["time", "level", "message"]
        assert each["level"] in LEVELS
    return found


FAIL = "test:fail?every=3"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["-m", FAIL, "in.txt"], 1, ["in.txt:3: the rehearsal fails every 3 lines"]),
        (["-m", FAIL, "in.txt", "--fail-fast"], 65, ["in.txt:3: ", "stopped after 1 failed record"]),
        (["missing"], 66, ["cannot open missing"]),
        (["-m", "test:ech", "in.txt"], 2, ["unknown rehearsal double"]),
        (["-m", "nonesuch", "in.txt"], 76, ["there is no bundle 'nonesuch'"]),
        (["--no-such-option"], 2, ["No such option"]),
        (["--threads", "none"], 2, ["--threads"]),
        (["-m", FAIL, "in.txt", "-o", "no/out"], 73, ["cannot create no/out"]),
        (["-m", FAIL, "in.txt", "-o", "/dev/full"], 74, ["cannot write /dev/full"]),
        (["-m", "test:slow?ms=9999", "in.txt", "--max-seconds", "0.3"], 75, ["stopped after 0.3 seconds"]),
        (["-m", "test:echo", "in.txt", "-o", "out", "--verbose"], 0, ["3 records, 0 failed"]),
        (["-m", "test:echo", "in.txt", "-o", "other"], 73, ["an unfinished run of other is kept in"]),
        (
            ["-m", "test:echo", "in.txt", "-o", "other", "--resume"],
            73,
            ["other.lmcli holds an unfinished job"],
        ),
        (["-m", "test:echo", "bad\nname\xff"], 66, ["cannot open bad\nname"]),
    ],
    ids=lambda value: (
        " ".join(value).replace("\n", "").replace("\xff", "") if isinstance(value, list) else None
    ),
)
def test_all_messages_are_json_lines(argv: list[str], code: int, said: list[str]) -> None:
    assert run("sentiment", "-m", FAIL, "in.txt", "-o", "other", "--resume", "--fail-fast").code == 65
    ended = run("sentiment", "--log-format", "json", *argv)
    assert ended.code == code
    found = messages(ended.err)
    assert len(found) == len(said)
    for each, part in zip(found, said, strict=True):
        assert part in str(each["message"])


def test_a_failed_record_says_as_json_where_it_is(cli: Cli) -> None:
    ended = cli("sentiment", "-m", FAIL, "in.txt", "--log-format", "json")
    (message,) = messages(ended.err)
    assert (message["source"], message["line"], message["code"]) == ("in.txt", 3, "rehearsal")


def test_a_signal_is_told_as_json() -> None:
    argv = [
        "sentiment",
        "-m",
        "test:slow?ms=99999",
        "in.txt",
        "-o",
        "out",
        "--resume",
        "--log-format",
        "json",
    ]
    with start(*argv) as process:
        while not Path("out.lmcli/lock").exists():
            pass
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT)
    (message,) = messages(err.decode())
    assert (process.returncode, message["level"]) == (143, "warning")


def test_the_command_line_is_stronger_than_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_LOG_FORMAT", "json")
    assert cli("sentiment", "--log-format", "text", "--nope").err.startswith("Usage: ")
    assert cli("sentiment", "--nope").err.startswith("{")


def test_the_format_of_messages_comes_from_the_environment() -> None:
    environ = {**os.environ, "LMCLI_LOG_FORMAT": "json"}
    ended = run("sentiment", "-m", FAIL, "in.txt", env=environ)
    assert len(messages(ended.err)) == 1
