"""What ends a run before its input does: time, signals, another run on the same output."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT, Ended, run, shell, start
from tests.cli.test_kill import read_journal

LINES = "".join(f"Line {number}\n" for number in range(400))
OUT = Path("out.txt")
STATE = Path("out.txt.lmcli")
SLOW = ("sentiment", "-m", "test:slow?ms=5", "in.txt")
STUCK = ("sentiment", "-m", "test:slow?ms=1000000", "in.txt", "-o", "out.txt")
FAST = ("sentiment", "-m", "test:echo", "in.txt")
CONTINUES = "; the same command continues where it ended\n"
LOCKED = "lmcli: another run is at work on out.txt\n       try again when it has ended\n"


@pytest.fixture(autouse=True)
def inputs(work: Path) -> None:
    (work / "in.txt").write_text(LINES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What all these runs would write."""
    path = tmp_path_factory.mktemp("whole") / "in.txt"
    path.write_text(LINES)
    return run(*FAST[:-1], path).out


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def holding(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has the lock of the output and would need hours; stopped at the end if it is still there."""
    with start(*STUCK, *options) as process:
        try:
            wait_until((STATE / "lock").exists)
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT / 2)
            process.kill()


# Time.


def test_a_run_stops_in_time_and_is_continued_until_it_is_complete(whole: str) -> None:
    endings: list[Ended] = []
    while not endings or endings[-1].code:
        endings.append(run(*SLOW, "-o", "out.txt", "--resume", "--max-seconds", 0.9))
    stopped = Ended(75, "", f"lmcli: stopped after 0.9 seconds (--max-seconds){CONTINUES}")
    assert endings == [*[stopped] * (len(endings) - 1), Ended(0, "", "")]
    assert len(endings) > 2
    assert OUT.read_text() == whole
    assert not STATE.exists()


def test_a_plain_output_is_not_there_when_the_time_is_over(work: Path) -> None:
    OUT.write_text("old\n")
    assert run(*SLOW, "-o", "out.txt", "--max-seconds", 0.5) == Ended(
        75,
        "",
        "lmcli: stopped after 0.5 seconds (--max-seconds); out.txt is left as it was\n"
        "       --resume continues such a run\n",
    )
    assert OUT.read_text() == "old\n"
    assert {path.name for path in work.iterdir()} == {"in.txt", "out.txt"}


def test_standard_output_has_whole_lines_when_the_time_is_over(whole: str) -> None:
    ended = run(*SLOW, "--max-seconds", 0.9, "--quiet")
    assert (ended.code, ended.err) == (75, "")
    assert whole.startswith(ended.out)
    assert ended.out.endswith("\n")


def test_the_time_is_over_before_anything_is_done() -> None:
    assert run(*SLOW, "-o", "out.txt", "--resume", "--max-seconds", 0.001).code == 75
    assert not OUT.exists()


def test_the_time_is_over_while_waiting_for_input() -> None:
    with start("sentiment", "-m", "test:echo", "--max-seconds", 0.5, "-q") as process:
        assert process.wait(TIMEOUT) == 75


def test_time_enough_is_no_limit(whole: str) -> None:
    assert run(*FAST, "--max-seconds", 3600) == Ended(0, whole, "")


@pytest.mark.parametrize("seconds", ["inf", "1e30"])
def test_a_limit_may_be_endless(whole: str, seconds: str) -> None:
    assert run(*FAST, "--max-seconds", seconds) == Ended(0, whole, "")


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_limit_is_a_positive_number(seconds: str) -> None:
    ended = run(*FAST, "--max-seconds", seconds)
    assert (ended.code, ended.out) == (2, "")
    assert "--max-seconds" in ended.err


# Signals.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_that_can_be_continued(whole: str, number: int, code: int) -> None:
    with start(*SLOW, "-o", "out.txt", "--resume") as process:
        wait_until(lambda: read_journal(OUT))
        sent = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
    assert time.monotonic() - sent < 2
    assert (process.returncode, out, err.decode()) == (code, b"", f"lmcli: stopped{CONTINUES}")
    assert not OUT.exists()
    part = (STATE / "part").read_text()
    assert whole.startswith(part)
    assert part.count("\n") == read_journal(OUT)[-1]["records"] > 0
    assert {path.name for path in STATE.iterdir()} == {"job.json", "journal", "part"}
    assert run(*SLOW, "-o", "out.txt", "--resume") == Ended(0, "", "")
    assert OUT.read_text() == whole


def test_a_signal_stops_a_run_that_waits_for_another_one() -> None:
    with holding() as first, start(*FAST, "-o", "out.txt", "--lock-wait", 60) as second:
        time.sleep(1)
        second.send_signal(signal.SIGTERM)
        assert second.wait(TIMEOUT / 2) == 143
        assert first.poll() is None


def test_a_signal_stops_a_run_that_is_suspended() -> None:
    """When it goes on, any of its threads may get the signal, while the main one sleeps."""
    for _ in range(5):
        with holding() as process:
            time.sleep(0.2)
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            assert process.wait(TIMEOUT / 2) == 143


def test_a_signal_that_is_ignored_stays_ignored(whole: str) -> None:
    """As with nohup, or in the background of a script."""
    script = "trap '' INT TERM; lmcli & job=$!; sleep 1; kill -INT $job; kill -TERM $job; wait $job"
    assert shell(script, *SLOW[:2], "test:slow?ms=4", "in.txt") == Ended(0, whole, "")


def test_the_reader_leaves(whole: str) -> None:
    ended = shell('lmcli | head -n 1; echo "${PIPESTATUS[0]}"', *SLOW)
    assert ended == Ended(0, f"{whole.splitlines()[0]}\n141\n", "")


# Locks.


@pytest.mark.parametrize("first", [[], ["--resume"]], ids=["plain", "resume"])
@pytest.mark.parametrize("second", [[], ["--resume"]], ids=["plain", "resume"])
def test_the_second_run_on_an_output_does_not_begin(first: list[str], second: list[str]) -> None:
    OUT.write_text("old\n")
    with holding(*first) as process:
        assert run(*STUCK, *second) == Ended(75, "", LOCKED)
        assert run(*STUCK, *second, "--lock-wait", 0.3) == Ended(75, "", LOCKED)
        assert process.poll() is None
    assert OUT.read_text() == "old\n"


def test_the_second_run_waits_and_then_continues_the_first(whole: str) -> None:
    job = (*SLOW, "-o", "out.txt", "--resume")
    with start(*job) as first:
        wait_until(lambda: read_journal(OUT))
        with start(*job, "--lock-wait", TIMEOUT, "--verbose") as second:
            time.sleep(0.5)
            first.terminate()
            _, err = second.communicate(timeout=TIMEOUT)
    assert (first.returncode, second.returncode) == (143, 0)
    assert b" records are done already\n" in err
    assert OUT.read_text() == whole
    assert not STATE.exists()


def test_many_runs_at_once_take_turns(whole: str) -> None:
    job = (*FAST, "-o", "out.txt", "--lock-wait", TIMEOUT)
    runs = [start(*job, *["--resume"][: number % 2]) for number in range(4)]
    for process in runs:
        assert process.communicate(timeout=TIMEOUT) == (b"", b"")
        assert process.returncode == 0
    assert OUT.read_text() == whole
    assert not STATE.exists()


@pytest.mark.parametrize("options", [[], ["--resume"]], ids=["plain", "resume"])
def test_a_killed_run_leaves_no_lock(whole: str, options: list[str]) -> None:
    with holding() as process:
        process.kill()
    assert (STATE / "lock").exists()
    assert run(*FAST, "-o", "out.txt", *options) == Ended(0, "", "")
    assert OUT.read_text() == whole
    assert not STATE.exists()


def test_a_stopped_run_holds_its_lock_until_it_is_gone(work: Path) -> None:
    with holding() as process:
        process.send_signal(signal.SIGSTOP)
        ended = run(*FAST, "-o", "out.txt")
        process.send_signal(signal.SIGCONT)
    assert ended.code == 75
    assert process.returncode == 143
    assert process.returncode == 143
    assert {path.name for path in work.iterdir()} == {"in.txt"}


def test_other_outputs_are_free(whole: str) -> None:
    with holding():
        assert run(*FAST, "-o", "other.txt") == Ended(0, "", "")
        assert run(*FAST) == Ended(0, whole, "")


def test_pipes_have_no_locks(whole: str) -> None:
    os.mkfifo("fifo")
    with subprocess.Popen(["cat", "fifo"], stdout=subprocess.PIPE) as reader:
        assert run(*FAST, "-o", "fifo").code == 0
        assert reader.communicate()[0].decode() == whole
    assert not Path("fifo.lmcli").exists()
