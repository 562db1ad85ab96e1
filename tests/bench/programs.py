"""Running programs beside each other: where the data is, the peers' environment, seconds and memory."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
ENVIRONMENT = ROOT / ".bench"
PACKAGES = [
    "optimum-onnx[onnxruntime]==0.1.0",
    "transformers==4.57.6",
    "torch==2.13.0",
    "accelerate",
    "ctranslate2==4.8.5",
    "sentencepiece==0.2.3",
    "sacrebleu==2.6.0",
    # The last whose builder runs with these transformers.
    "onnxruntime-genai==0.14.1",
    "onnx-ir==1.1.0",
    "gguf==0.19.0",
]
NODE_PACKAGES = ["node-llama-cpp@3.22.1"]


@dataclass
class Others:
    """How busy a machine was with other programs while one ran; of Linux alone, zero elsewhere."""

    own: float = 0.0
    """The CPU seconds of that program."""
    cores: float = 0.0

    @classmethod
    @contextmanager
    def watch(cls) -> Iterator[Others]:
        """Count from here to the end, where `cores` is set."""
        others, started, before = cls(), time.perf_counter(), _busy_seconds()
        yield others
        elapsed = time.perf_counter() - started
        others.cores = max(0.0, (_busy_seconds() - before - others.own) / elapsed)


def wait_until_quiet(patience: float, limit: float = 0.1) -> None:
    """Wait for two seconds in which less than `limit` cores are busy, `patience` seconds at most."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        with Others.watch() as others:
            time.sleep(2)
        if others.cores < limit:
            break


def _busy_seconds() -> float:
    """Of all cores since the machine was started."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = path.read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What one process took."""

    seconds: float
    cpu_seconds: float
    """Of all its threads: what is left of a measurement on a machine that is busy with other things."""
    peak_mb: float


def environment() -> Path:
    """The peers' Python; installed at the first run, and again when the list of packages has changed."""
    python, ready, wanted = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "ready", "\n".join(PACKAGES)
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        ready.write_text(wanted)
    return python


def node_environment() -> Path:
    """A folder with the peers' JavaScript packages; installed at the first run, as `environment`."""
    folder, wanted = ENVIRONMENT / "node", "\n".join(NODE_PACKAGES)
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, *NODE_PACKAGES],
            check=True,
        )
        ready.write_text(wanted)
    return folder


def need(*paths: Path) -> None:
    """Stop with a message where a file or folder is not there."""
    for path in paths:
        if not path.exists():
            sys.exit(f"{path} is not there: the options name the data and the checkpoint (--help)")


def run(command: Sequence[object], stdin: BinaryIO | None = None) -> Usage:
    """Run one process to its end; SystemExit with the end of its stderr if it fails.

    Linux counts the peak of a process from the size of the one that started it, so callers stay small.
    """
    return _run(command, stdin, subprocess.DEVNULL, lambda: None)


def run_to_first(command: Sequence[object]) -> tuple[float, Usage]:
    """Run one process with a terminal as its stdout: seconds to its first output, and its usage."""
    terminal, stdout = pty.openpty()
    moments: list[float] = []

    def watch() -> None:
        os.close(stdout)
        try:
            while os.read(terminal, 4096):
                moments.append(time.perf_counter())
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        os.close(terminal)

    started = time.perf_counter()
    usage = _run(command, None, stdout, watch)
    if not moments:
        sys.exit(f"{' '.join(map(str, command))}: no output")
    return moments[0] - started, usage


def _run(command: Sequence[object], stdin: BinaryIO | None, stdout: int, watch: Callable[[], None]) -> Usage:
    """`watch` is called when the process has started."""
    with tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        watch()
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            sys.stderr.write(stderr.read().decode(errors="replace")[-2000:])
            sys.exit(f"{' '.join(map(str, command))}: status {process.returncode}")
    return Usage(elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
