"""Large and endless inputs, as processes: memory stays flat, results come at once, signals are heard."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT, start

ECHO = "test:echo"
MEGABYTE = 1_000_000


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """The most memory, in bytes, that a process has had since it began; it must still be there.

    What `wait4` tells would count the memory of this process, too, from before the program was loaded.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def fed(process: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> Iterator[None]:
    """Write the chunks to a process while the block runs; the end of its input comes behind the block."""

    def feed() -> None:
        with suppress(BrokenPipeError):
            for chunk in chunks:
                os.write(stdin.fileno(), chunk)

    assert process.stdin is not None
    stdin = process.stdin
    feeder = threading.Thread(target=feed)
    feeder.start()
    yield
    feeder.join()
    stdin.close()


def parts(process: subprocess.Popen[bytes], count: int, end: bytes) -> Iterator[bytes]:
    """What a process writes until so many lines have ended."""
    assert process.stdout is not None
    while count > 0:
        part = os.read(process.stdout.fileno(), 1 << 20)
        assert part, "the output ended too early"
        yield part
        count -= part.count(end)


def read_lines(process: subprocess.Popen[bytes], count: int, end: bytes = b"\n") -> bytes:
    """At least so many lines of what a process writes."""
    return b"".join(parts(process, count, end))


def skip_lines(process: subprocess.Popen[bytes], count: int) -> None:
    """Read them and forget them."""
    for _ in parts(process, count, b"\n"):
        pass


def the_rest(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """How a process ends whose input has ended, and what it still writes."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    return process.wait(TIMEOUT), out, err


def short_lines(count: int) -> Iterator[bytes]:
    for first in range(0, count, 1000):
        yield b"".join(b"good %d\n" % number for number in range(first, first + 1000))


def memory_of_lines(model: object, count: int) -> int:
    """The most memory that a run over so many short lines has."""
    with start("sentiment", "-m", model, "--threads", 2) as process:
        with fed(process, short_lines(count)):
            skip_lines(process, count)
            memory = peak_memory(process)
        ended = the_rest(process)
    assert ended == (0, b"", b"")
    return memory


def test_memory_is_flat_over_a_million_lines() -> None:
    """With a double: the model of the next test would take minutes."""
    assert memory_of_lines(ECHO, 1_000_000) - memory_of_lines(ECHO, 20_000) < 8 * MEGABYTE


def test_memory_is_flat_over_many_lines_for_a_model(moods: Path) -> None:
    assert memory_of_lines(moods, 100_000) - memory_of_lines(moods, 20_000) < 16 * MEGABYTE


WORDS = "good, " * 8_000_000
PARAGRAPHS = f"{'good ' * 2000}\n" * 5000


@pytest.mark.parametrize(
    ("options", "data", "num_slots"),
    [
        pytest.param([], f"before\n{WORDS}\nafter\n", 3, id="text"),
        pytest.param(["--by", "nul", "-O", "nul"], f"before\0{PARAGRAPHS}\0after\0", 3, id="nul"),
        pytest.param(
            ["-I", "jsonl"],
            "".join(json.dumps({"text": text}) + "\n" for text in ("before", WORDS, "after")),
            3,
            id="jsonl",
        ),
        pytest.param(["-I", "csv"], f'text\nbefore\n"{WORDS}"\nafter\n', 4, id="csv"),
        pytest.param(["-I", "csv"], f'text\nbefore\n"{PARAGRAPHS}"\nafter\n', 5004, id="csv of many lines"),
        pytest.param(["-I", "tsv"], f"text\nbefore\n{WORDS}\nafter\n", 4, id="tsv"),
    ],
)
def test_a_record_of_50_megabytes_is_as_good_as_any(options: list[str], data: str, num_slots: int) -> None:
    with start("sentiment", "-m", ECHO, *options) as process:
        with fed(process, [data.encode()]):
            out = read_lines(process, num_slots, b"\0" if "nul" in options else b"\n")
            memory = peak_memory(process)
        ended = the_rest(process)
    assert ended == (0, b"", b"")
    assert b"before" in out[:100]
    assert b"after" in out[-100:]
    assert len(out) > 48 * MEGABYTE
    assert memory < 12 * 50 * MEGABYTE


def test_a_model_reads_a_line_of_50_megabytes(moods: Path) -> None:
    line = b"x" * 50 * MEGABYTE
    with start("sentiment", "-m", moods) as process:
        with fed(process, [b"good\n", line, b"\nbad\n"]):
            out = read_lines(process, 3)
            memory = peak_memory(process)
        assert process.wait(TIMEOUT) == 0
    assert out == b"POSITIVE\t0.7311\tgood\nNEGATIVE\t0.5000\t%b\nNEGATIVE\t0.7311\tbad\n" % line
    assert memory < 12 * 50 * MEGABYTE


@pytest.mark.parametrize("is_double", [True, False], ids=["double", "model"])
def test_an_endless_input_has_results_at_once_flat_memory_and_a_clean_end(
    moods: Path, is_double: bool
) -> None:
    with (
        subprocess.Popen(["yes", "good"], stdout=subprocess.PIPE) as lines,
        start("sentiment", "-m", ECHO if is_double else moods, stdin=lines.stdout) as process,
    ):
        skip_lines(process, 20_000)
        before = peak_memory(process)
        skip_lines(process, 100_000)
        after = peak_memory(process)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT)
        seconds = time.monotonic() - sent
        lines.kill()
    assert (process.returncode, err) == (143, b"")
    assert out.endswith(b"\tgood\n") or not out
    assert after - before < 8 * MEGABYTE
    assert seconds < 2


@pytest.mark.parametrize("is_double", [True, False], ids=["double", "model"])
def test_a_slow_producer_has_each_result_before_its_next_line(moods: Path, is_double: bool) -> None:
    with start("sentiment", "-m", ECHO if is_double else moods) as process:
        assert process.stdin is not None
        for number in range(10):
            process.stdin.write(b"good %d\n" % number)
            assert read_lines(process, 1).endswith(b"\tgood %d\n" % number)
            time.sleep(0.1)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, err) == (0, b"", b"")
