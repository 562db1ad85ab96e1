"""Disks that fail, fill up or lose power around whole runs, and outputs that cannot be written."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from lmcli.cli.running import delivery
from lmcli.cli.running import run as running
from lmcli.cli.running import summary as summarizing
from lmcli.records.journal import Journal
from tests.cli.commands import Ended, run, shell
from tests.cli.conftest import Cli
from tests.records.faults import Interrupt, failing, interrupting, power_cut

FAIL = "test:fail?every=2&unless=fixed"
OLD = b"what was here before\n"
STRIDE = 29
KINDS = {
    "text": ["sentiment", "-m", "test:echo", "in.txt", "-o", "jobs/out.txt", "--resume"],
    "gzip": ["ner", "-m", "test:echo", "in.jsonl", "-o", "jobs/out.jsonl.gz", "--resume"],
    "retries": ["translate", "-m", FAIL, "--to", "fr", "in.csv", "-o", "jobs/out.csv", "--resume"],
}


@pytest.fixture(autouse=True)
def inputs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "jobs").mkdir()
    (work / "in.txt").write_text("One\n\nTwo\n")
    (work / "in.jsonl").write_text('{"text":"One"}\n{"text":"Two"}\n')
    (work / "in.csv").write_text("text\nOne\nTwo\nThree\n")
    monkeypatch.setattr(delivery, "Journal", partial(Journal, interval=0))


@pytest.fixture(name="no_sync")
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs are slow, and only a power cut can tell whether they happened: `power_cut` counts the calls."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


class Job:
    """A run with --resume over an old file; the one with retries has been complete, with failures."""

    def __init__(self, cli: Cli, kind: str) -> None:
        self._cli = cli
        self._argv = KINDS[kind]
        self.target = Path(self._argv[self._argv.index("-o") + 1])
        self._has_retries = kind == "retries"
        Path("fixed").touch()
        assert self() == Ended(0, "", "")
        self.whole = self.target.read_bytes()
        self.begin_anew()

    def __call__(self) -> Ended:
        return self._cli(*self._argv)

    def begin_anew(self) -> None:
        shutil.rmtree("jobs")
        Path("jobs").mkdir()
        self.target.write_bytes(OLD)
        self.old = OLD
        if self._has_retries:
            Path("fixed").unlink()
            assert self().code == 1
            self.old = self.target.read_bytes()
            Path("fixed").touch()

    def check_can_be_continued(self) -> None:
        assert self.target.read_bytes() in (self.old, self.whole)
        assert self() == Ended(0, "", "")
        assert self.target.read_bytes() == self.whole
        assert [path.name for path in Path("jobs").iterdir()] == [self.target.name]


@pytest.fixture(params=KINDS)
def job(request: pytest.FixtureRequest, cli: Cli) -> Job:
    request.getfixturevalue("no_sync")
    return Job(cli, request.param)


@pytest.mark.parametrize(
    ("error", "persists"), [(errno.EIO, False), (errno.ENOSPC, True)], ids=["EIO once", "ENOSPC from then on"]
)
def test_any_call_fails_and_the_next_run_ends_in_the_same_bytes(job: Job, error: int, persists: bool) -> None:
    for at in count(1):
        with failing(Path("jobs"), at, error, persists=persists, is_short=persists) as fault:
            ended = job()
        if not fault.has_struck:
            break
        if ended.code or ended.err:  # what fails when all is over is the removal of the lock
            assert (ended.code, ended.out) == (74, "")
            assert ended.err.startswith(f"lmcli: cannot write {job.target}: {os.strerror(error)}")
            assert ended.err.count("lmcli: ") == 1
        job.check_can_be_continued()
        job.begin_anew()
    assert at > 10


def test_the_power_goes_at_any_moment_and_the_next_run_ends_in_the_same_bytes(job: Job) -> None:
    for at in count(1):
        with power_cut(Path("jobs"), at, seed=at) as fault:
            job()
        job.check_can_be_continued()
        if not fault.has_struck:
            break
        job.begin_anew()
    assert at > 10


def test_a_signal_between_any_two_steps_and_the_next_run_ends_in_the_same_bytes(job: Job) -> None:
    files = tuple(str(module.__file__) for module in (delivery, running, summarizing))
    for at in count(1, STRIDE):
        with suppress(Interrupt), interrupting(at, *files) as fault:
            job()
        job.check_can_be_continued()
        if not fault.has_struck:
            break
        job.begin_anew()
    assert at > 10 * STRIDE


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_any_call_fails_and_a_plain_output_is_the_old_one_or_the_new_one(cli: Cli, error: int) -> None:
    target = Path("jobs/out.txt")
    argv = ["sentiment", "-m", "test:echo", "in.txt", "-o", target]
    assert cli(*argv).code == 0
    whole = target.read_bytes()
    for at in count(1):
        target.write_bytes(OLD)
        with failing(Path("jobs"), at, error) as fault:
            ended = cli(*argv)
        if not fault.has_struck:
            break
        assert (
            ended == Ended(74, "", f"lmcli: cannot write {target}: {os.strerror(error)}\n") or ended.code == 0
        )
        assert target.read_bytes() in ([OLD, whole] if ended.code else [whole])
    assert at > 3


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file get larger: as on a full disk, a write writes what it can, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LINES = "".join(f"Line {number}\n" for number in range(2000))


@pytest.mark.parametrize("output", ["out.txt", "out.txt.gz"])
def test_the_disk_is_full_and_a_plain_output_stays_what_it_was(cli: Cli, output: str) -> None:
    Path("many.txt").write_text(LINES)
    argv = ["sentiment", "-m", "test:echo", "many.txt", "-o", output]
    assert cli(*argv).code == 0
    whole = Path(output).read_bytes()
    Path(output).write_bytes(OLD)
    names = sorted(Path().iterdir())
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        with files_up_to(size):
            ended = cli(*argv)
        assert ended == Ended(74, "", f"lmcli: cannot write {output}: File too large\n")
        assert Path(output).read_bytes() == OLD
        assert sorted(Path().iterdir()) == names
    with files_up_to(len(whole)):
        assert cli(*argv).code == 0
    assert Path(output).read_bytes() == whole


@pytest.mark.parametrize("output", ["out.txt", "out.txt.gz"])
def test_the_disk_is_full_and_the_run_goes_on_when_there_is_room(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(delivery, "Journal", partial(Journal, interval=0.005))
    Path("many.txt").write_text(LINES)
    argv = ["sentiment", "-m", "test:echo", "many.txt", "-o", output]
    assert cli(*argv).code == 0
    whole = Path(output).read_bytes()
    Path(output).write_bytes(OLD)
    codes = []
    for size in count(0, 2500):
        with files_up_to(size):
            ended = cli(*argv, "--resume")
        codes.append(ended.code)
        if not ended.code:
            break
        assert ended == Ended(74, "", f"lmcli: cannot write {output}: File too large\n")
        assert Path(output).read_bytes() == OLD
    assert len(codes) > 5
    assert Path(output).read_bytes() == whole
    assert not Path(f"{output}.lmcli").exists()


def test_the_log_of_failed_records_finds_the_disk_full(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "Journal", Journal)  # a few commits, so that the log is the largest file
    Path("many.txt").write_text(LINES)
    model = "test:fail?every=1&unless=fixed"
    argv = ["sentiment", "-q", "-m", model, "many.txt", "-o", "out", "--errors", "log", "--resume"]
    with files_up_to(100_000):
        ended = cli(*argv)
    assert ended == Ended(74, "", "lmcli: cannot write log: File too large\n")
    assert not Path("out").exists()
    Path("fixed").touch()
    assert cli(*argv) == Ended(0, "", "")
    assert Path("log").read_bytes() == b""
    assert len(Path("out").read_bytes().splitlines()) == 2000


def test_the_summary_finds_the_disk_full_and_the_old_one_stays(cli: Cli) -> None:
    Path("s.json").write_bytes(OLD)
    with files_up_to(100):
        ended = cli("sentiment", "-m", "test:echo", "in.txt", "-o", "out", "--summary", "s.json")
    assert ended == Ended(74, "", "lmcli: cannot write s.json: File too large\n")
    assert Path("s.json").read_bytes() == OLD
    assert Path("out").read_bytes().count(b"\n") == 3


def test_a_complete_run_without_its_summary_only_has_that_to_do(cli: Cli) -> None:
    argv = ["sentiment", "-m", "test:echo", "in.txt", "-o", "out", "--resume", "--summary"]
    assert cli(*argv, "/dev/full").code == 74
    assert Path("out.lmcli").exists()
    assert cli(*argv, "s.json") == Ended(0, "", "")
    summary = json.loads(Path("s.json").read_bytes())
    assert (summary["status"], summary["records"], summary["resumed_at"]) == ("complete", 3, 3)
    assert not Path("out.lmcli").exists()


def test_what_ended_the_run_is_told_beside_what_hinders_its_summary(cli: Cli) -> None:
    argv = ["sentiment", "-m", "test:fail?every=1", "in.txt", "--fail-fast", "--summary", "s.json"]
    with files_up_to(100):
        ended = cli(*argv)
    assert ended.code == 65
    assert ended.err.splitlines() == [
        "lmcli: in.txt:1: the rehearsal fails every 1 lines",
        "lmcli: cannot write s.json: File too large",
        "lmcli: stopped after 1 failed record (--fail-fast); the output is not complete",
    ]


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 74, "cannot write standard output: No space left on device"),
        (">&-", 74, "cannot write standard output: it is closed"),
        ("-o /dev/full", 74, "cannot write /dev/full: No space left on device"),
        ("--errors /dev/full", 74, "cannot write /dev/full: No space left on device"),
        ("--summary /dev/full", 74, "cannot write /dev/full: No space left on device"),
        ("--summary no/such", 73, "cannot create no/such: there is no such directory"),
        ("-o no/such", 73, "cannot create no/such: No such file or directory"),
        ("-o no/such --resume", 73, "cannot create no/such: No such file or directory"),
        ("-o out --resume --errors no/log", 73, "cannot create no/log: No such file or directory"),
    ],
)
def test_real_outputs_that_cannot_be_written(redirection: str, code: int, message: str) -> None:
    ended = shell(f"lmcli {redirection}", "sentiment", "-q", "-m", FAIL, "in.csv")
    assert (ended.code, ended.err) == (code, f"lmcli: {message}\n")


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_summary_tells_of_an_output_that_failed(redirection: str) -> None:
    assert shell(f"lmcli {redirection}", "sentiment", "-m", FAIL, "in.csv", "--summary", "s.json").code == 74
    summary = json.loads(Path("s.json").read_bytes())
    assert (summary["status"], summary["exit_code"]) == ("error", 74)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_nobody_hears_the_messages(redirection: str) -> None:
    ended = shell(f"lmcli {redirection}", "sentiment", "-m", FAIL, "in.csv")
    assert (ended.code, ended.err, ended.out.count("\n")) == (1, "", 4)


def test_a_process_with_a_limit_of_the_shell_can_be_continued() -> None:
    """`ulimit -f` counts blocks of 1024 bytes; the signal that comes with it is ignored."""
    Path("many.txt").write_text(LINES)
    argv = ["sentiment", "-m", "test:echo", "many.txt", "-o", "out", "--resume"]
    assert shell("ulimit -f 20; lmcli", *argv) == Ended(74, "", "lmcli: cannot write out: File too large\n")
    assert not Path("out").exists()
    assert run(*argv) == Ended(0, "", "")
    assert len(Path("out").read_bytes().splitlines()) == 2000
