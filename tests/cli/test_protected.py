"""What a run reads besides its inputs is not written over, and what it stops early says what to do."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT, start
from tests.cli.conftest import Cli

JOB = 'inputs = "in.txt"\npipeline = "ner model=test:echo"\n'


@pytest.fixture(autouse=True)
def files(work: Path) -> None:
    (work / "in.txt").write_text("Paris\n")
    (work / "job.toml").write_text(JOB)
    (work / "template.txt").write_text("Say {text}")


@pytest.mark.parametrize("option", ["-o", "--errors", "--summary"])
def test_a_job_is_not_written_over(cli: Cli, work: Path, option: str) -> None:
    ended = cli("run", "job.toml", option, "job.toml")
    assert (ended.code, ended.err.splitlines()[0]) == (73, "lmcli: job.toml is also an input")
    assert (work / "job.toml").read_text() == JOB


@pytest.mark.parametrize("option", ["-o", "--errors", "--summary"])
def test_a_template_is_not_written_over(cli: Cli, work: Path, option: str) -> None:
    argv = ["prompt", "-m", "test:echo", "--template", "template.txt", "in.txt"]
    assert cli(*argv, option, "template.txt").code == 73
    assert (work / "template.txt").read_text() == "Say {text}"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_summary_does_not_follow_the_data(cli: Cli, name: str) -> None:
    ended = cli("sentiment", "-m", "test:echo", "in.txt", "--summary", name)
    assert (ended.code, ended.out) == (73, "")


def test_what_stderr_leads_to_keeps_its_content(work: Path) -> None:
    (work / "log").write_text("before\n")
    with (work / "log").open("a") as log:
        argv = ("sentiment", "-m", "test:fail?every=1", "in.txt", "--errors", "/dev/stderr")
        with start(*argv, stdin=subprocess.DEVNULL, stderr=log) as process:
            assert process.wait(TIMEOUT) == 1
    first, *others = (work / "log").read_text().splitlines()
    assert first == "before"
    assert any('"code":"rehearsal"' in line for line in others)


def test_a_job_is_continued_from_another_folder(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "jobs").mkdir()
    (work / "jobs" / "in.txt").write_text("Paris\n" * 40)
    job = 'inputs = "in.txt"\noutput = "out.txt"\nresume = true\npipeline = "ner model=test:slow?ms=20"\n'
    (work / "jobs" / "job.toml").write_text(job)
    assert cli("run", "jobs/job.toml", "--max-seconds", "0.5").code == 75
    monkeypatch.chdir(work / "jobs")
    assert cli("run", "job.toml").code == 0
    assert (work / "jobs" / "out.txt").read_text() == "[Paris](ORG)\n" * 40


def test_a_job_that_names_no_input(cli: Cli, work: Path) -> None:
    (work / "job.toml").write_text('inputs = []\npipeline = "ner model=test:echo"\n')
    ended = cli("run", "job.toml")
    assert (ended.code, ended.err.splitlines()[0]) == (78, "lmcli: job.toml:1: inputs names no file")


def test_prompts_that_are_shown_do_not_continue_answers(cli: Cli) -> None:
    Path("in.txt").write_text("Paris\n" * 40)
    argv = ["prompt", "in.txt", "--resume", "-o", "out"]
    assert cli(*argv, "-m", "test:slow?ms=20", "--max-seconds", "0.5").code == 75
    ended = cli(*argv, "-m", "test:slow?ms=20", "--show-prompt", "2")
    assert ended.code == 2
    assert "--show-prompt runs no model" in ended.err


def test_a_configured_wait_for_locks_needs_no_output(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_LOCK_WAIT", "2")
    assert cli("ner", "-m", "test:echo", "in.txt").code == 0
    assert cli("ner", "-m", "test:echo", "in.txt", "--lock-wait", "2").code == 2


def test_a_stop_before_the_first_record_says_so(cli: Cli) -> None:
    ended = cli("ner", "-m", "test:slow?ms=5000", "in.txt", "--resume", "-o", "out", "--max-seconds", "0.4")
    assert ended.code == 75
    assert "before a record was finished" in ended.err


def test_a_terminal_that_goes_away_ends_a_run_in_order(work: Path) -> None:
    argv = ("ner", "-m", "test:slow?ms=50", "-o", "out", "--summary", "s.json")
    with start(*argv) as process:
        assert process.stdin is not None
        process.stdin.write(b"Paris\n")
        while not list(work.glob(".*.lmcli-*")):
            pass
        os.kill(process.pid, signal.SIGHUP)
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 129
    assert '"hung_up"' in (work / "s.json").read_text()
    assert not list(work.glob("out*"))


def test_what_a_killed_run_left_is_swept(cli: Cli, work: Path) -> None:
    (work / ".out.lmcli-0123abcd.tmp").write_text("half")
    (work / ".other.lmcli-0123abcd.tmp").write_text("half")
    assert cli("ner", "-m", "test:echo", "in.txt", "-o", "out").code == 0
    assert [path.name for path in work.glob(".*")] == [".other.lmcli-0123abcd.tmp"]


def test_a_paragraph_behind_a_filter_is_written_as_if_nothing_had_failed(cli: Cli, work: Path) -> None:
    (work / "in.txt").write_text("One\n\nTwo words\n")
    pipeline = "translate model=test:fail?every=1&unless=fixed to=fr | filter text != 'One'"
    argv = ["pipe", pipeline, "in.txt", "--by", "para", "-o", "out", "--resume"]
    assert cli(*argv).code == 1
    (work / "fixed").touch()
    assert cli(*argv).code == 0
    assert (work / "out").read_text() == "Two words\n"
