"""Runs that are killed at random moments, again and again: what is on disk then, and what comes of it."""

import gzip
import json
import random
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import run, start
from tests.cli.forks import Forks, forking

NUM_KILLS = 50
NUM_RECORDS = 100
LONGEST = 0.25
INTERVAL = 0.01
SLOW = "test:slow?ms=1"
OLD = b"what was here before\n"
PIPE = (
    f"sentiment model={SLOW} | filter sentiment.score > 0.6 | translate model={SLOW} to=fr"
    " | select text, mood=sentiment.label, translation"
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command with an input, and how its records lie there."""

    argv: tuple[str, ...]
    input: str
    output: str
    first_line: int = 1
    lines_each: int = 1

    def index(self, line: int) -> int:
        """Of the record that starts on a line."""
        return (line - self.first_line) // self.lines_each


KINDS = {
    "sentiment": Kind(argv=("sentiment", "-m", SLOW), input="in.txt", output="out.txt"),
    "ner": Kind(argv=("ner", "-m", SLOW), input="in.jsonl", output="out.jsonl"),
    "translate": Kind(
        argv=("translate", "-m", SLOW, "--to", "fr"), input="in.csv", output="out.csv", first_line=2
    ),
    "summarize": Kind(
        argv=("summarize", "-m", SLOW, "--by", "para"), input="in.para", output="out.txt.gz", lines_each=3
    ),
    "prompt": Kind(argv=("prompt", "-m", SLOW), input="in.tsv", output="out.tsv", first_line=2),
    "embed": Kind(argv=("embed", "-m", SLOW, "-O", "jsonl"), input="in.txt", output="out.jsonl.gz"),
    "pipe": Kind(argv=("pipe", PIPE), input="in.jsonl", output="out.jsonl"),
    "failures": Kind(
        argv=("sentiment", "-m", "test:fail?every=7&ms=1"), input="in.csv", output="out.csv", first_line=2
    ),
}


def write_inputs(folder: Path) -> None:
    """The same texts in all formats; every eleventh is blank, and one line is no text, or no object."""
    texts = [f"Good line {number}" if number % 11 else "" for number in range(NUM_RECORDS)]
    lines = [text.encode() for text in texts]
    lines[5] = b"\xff"
    objects = [json.dumps({"id": number, "text": text}).encode() for number, text in enumerate(texts)]
    objects[5] = b"no object"
    rows = [b"%d,%s" % (number, line) for number, line in enumerate(lines)]
    paragraphs = [f"Good\nline {number}".encode() for number in range(NUM_RECORDS)]
    (folder / "in.txt").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "in.jsonl").write_bytes(b"\n".join(objects) + b"\n")
    (folder / "in.csv").write_bytes(b"id,text\n" + b"\n".join(rows) + b"\n")
    (folder / "in.tsv").write_bytes((b"id,text\n" + b"\n".join(rows) + b"\n").replace(b",", b"\t"))
    (folder / "in.para").write_bytes(b"\n\n".join(paragraphs) + b"\n")


class Job:
    """A run with --resume over an old file, and what must hold of its files at any moment."""

    def __init__(self, kind: Kind, forks: Forks) -> None:
        write_inputs(forks.folder)
        self.kind = kind
        self.argv = (*kind.argv, kind.input, "-o", kind.output, "--resume")
        self.log = forks.folder / "computed.log"
        self._output = forks.folder / kind.output
        forks(*kind.argv, kind.input, "-o", "whole" + "".join(self._output.suffixes))
        self._whole = next(forks.folder.glob("whole.*")).read_bytes()
        self._plain = gzip.decompress(self._whole) if kind.output.endswith(".gz") else self._whole
        self.begin_anew()

    def begin_anew(self) -> None:
        shutil.rmtree(state_of(self._output), ignore_errors=True)
        self._output.write_bytes(OLD)
        self.committed = 0
        """How many records had been committed at the last look."""

    def check(self) -> None:
        """Call after each run, however it ended."""
        assert self._output.read_bytes() in (OLD, self._whole)
        commits = [line for line in read_journal(self._output) if "records" in line]
        if not commits:
            self.committed = 0  # not begun, or all over: the folder goes with the last failure
            return
        last = commits[-1]
        if not last["is_complete"]:
            part = (state_of(self._output) / "part").read_bytes()[: last["bytes"]]
            assert part == self._plain[: last["bytes"]]
            assert part.endswith(b"\n") or not part
        assert last["records"] >= self.committed
        self.committed = last["records"]

    def computed(self) -> list[int]:
        return computed_in(self.log, self.kind)

    def is_over(self) -> bool:
        return self._output.read_bytes() == self._whole


def computed_in(log: Path, kind: Kind) -> list[int]:
    """The indices of the good records that the last run has computed, in order."""
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return [kind.index(int(line)) for line in lines]


def state_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.lmcli")


def read_journal(output: Path) -> list[Any]:
    """The lines whose checksums hold."""
    path, found = state_of(output) / "journal", []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        body, _, crc = line.rpartition(b" ")
        if int(crc, 16) != zlib.crc32(body):
            break
        found.append(json.loads(body))
    return found


def kill(forks: Forks, kind: Kind) -> None:
    """Kill a run many times."""
    job = Job(kind, forks)
    chance = random.Random(kind.output)
    num_kills = 0
    while num_kills < NUM_KILLS:
        before = job.committed
        forks.start(*job.argv, interval=INTERVAL, log=job.log)
        time.sleep(chance.uniform(0, LONGEST))
        forks.kill()
        ended = forks.wait()
        job.check()
        assert all(index >= before for index in job.computed())
        num_kills += ended.code == -signal.SIGKILL
        if ended.code in (0, 1):
            assert job.is_over()
        if job.is_over() and chance.random() < 0.5:
            job.begin_anew()
    forks(*job.argv)
    assert job.is_over()


def stop(forks: Forks, number: int, kind: Kind) -> None:
    """Send many runs a signal; they commit at their end only."""
    job = Job(kind, forks)
    chance = random.Random(number)
    num_stopped = 0
    while num_stopped < NUM_KILLS:
        before = job.committed
        forks.start(*job.argv, interval=3600, log=job.log)
        time.sleep(chance.uniform(0, LONGEST))
        forks.kill(number)
        sent = time.monotonic()
        ended = forks.wait()
        assert time.monotonic() - sent < 2
        assert ended.code in (128 + number, -number, 1)
        assert "Traceback" not in ended.err
        assert "Exception ignored" not in ended.err
        job.check()
        computed = job.computed()
        assert not computed or job.committed >= computed[-1] >= computed[0] >= before
        num_stopped += ended.code != 1
        if job.is_over():
            job.begin_anew()
    forks(*job.argv)
    assert job.is_over()


def kill_retries(forks: Forks, output: str) -> None:
    """Kill a run many times that retries the records of a complete output that had failed."""
    write_inputs(forks.folder)
    argv = ["sentiment", "-m", "test:fail?every=3&ms=1&unless=fixed", "in.csv", "--resume", "-o"]
    fixed, target, log = (forks.folder / name for name in ("fixed", output, "computed.log"))
    fixed.touch()
    forks(*argv, f"good.{output}")
    good = (forks.folder / f"good.{output}").read_bytes()
    chance = random.Random(output)
    num_kills = 0
    while num_kills < NUM_KILLS:
        fixed.unlink()
        shutil.rmtree(state_of(target), ignore_errors=True)
        forks(*argv, output)
        broken = target.read_bytes()
        fixed.touch()
        retried: set[int] = set()
        while target.read_bytes() != good:
            forks.start(*argv, output, interval=INTERVAL, log=log)
            time.sleep(chance.uniform(0, LONGEST / 2))
            forks.kill()
            num_kills += forks.wait().code == -signal.SIGKILL
            assert target.read_bytes() in (broken, good)
            assert retried.isdisjoint(computed_in(log, KINDS["failures"]))
            retried = {line["index"] for line in read_journal(target) if "index" in line}
    assert forks(*argv, output).code == 1  # one record is no text
    assert target.read_bytes() == good


LOOPS: dict[str, Callable[[Forks], None]] = {
    **{f"kill {name}": partial(kill, kind=kind) for name, kind in KINDS.items()},
    "interrupt sentiment": partial(stop, number=signal.SIGINT, kind=KINDS["sentiment"]),
    "terminate embed": partial(stop, number=signal.SIGTERM, kind=KINDS["embed"]),
    "kill retries": partial(kill_retries, output="out.csv"),
    "kill retries gz": partial(kill_retries, output="out.csv.gz"),
}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[None]]]:
    """All loops, several at a time: mostly they wait."""

    def run_loop(loop: Callable[[Forks], None]) -> None:
        with forking(tmp_path_factory.mktemp("loop")) as forks:
            loop(forks)

    with ThreadPoolExecutor(4) as pool:
        yield {name: pool.submit(run_loop, loop) for name, loop in LOOPS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_kills_end_in_the_same_bytes_and_nothing_is_computed_twice(
    loops: Mapping[str, Future[None]], kind: str
) -> None:
    loops[f"kill {kind}"].result()


@pytest.mark.parametrize("name", ["interrupt sentiment", "terminate embed"])
def test_a_signal_at_any_moment_loses_no_result(loops: Mapping[str, Future[None]], name: str) -> None:
    loops[name].result()


@pytest.mark.parametrize("name", ["kill retries", "kill retries gz"])
def test_kills_while_failed_records_are_retried(loops: Mapping[str, Future[None]], name: str) -> None:
    loops[name].result()


def test_kills_of_real_processes_with_a_real_model(moods: Path) -> None:
    """From the first instruction of the interpreter on."""
    target = Path("out.txt")
    lines = [f"{'good' if number % 3 else 'bad'} {number}\n" for number in range(30_000)]
    Path("in.txt").write_text("".join(lines))
    argv = ["sentiment", "-m", moods, "--threads", 1, "in.txt", "-o"]
    began = time.monotonic()
    assert run(*argv, "whole.txt").code == 0
    longest = time.monotonic() - began
    whole = Path("whole.txt").read_bytes()
    chance = random.Random(5)
    committed = 0
    for _ in range(7):
        with start(*argv, target, "--resume") as process:
            time.sleep(chance.uniform(0, longest))
            process.kill()
        if journal := read_journal(target):
            assert journal[-1]["records"] >= committed
            committed, size = journal[-1]["records"], journal[-1]["bytes"]
            part = state_of(target) / "part"
            # Killed between the rename and the end of the folder, a run has put its part in place.
            assert (part if part.exists() else target).read_bytes()[:size] == whole[:size]
        else:
            committed = 0  # the next one begins anew
        assert process.returncode or target.read_bytes() == whole
        assert not target.exists() or target.read_bytes() == whole
    assert run(*argv, target, "--resume").code == 0
    assert target.read_bytes() == whole
    assert not state_of(target).exists()
