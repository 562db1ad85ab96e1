"""Running programs beside each other: where the data is, the peers' environment, seconds and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
]


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


def need(*paths: Path) -> None:
    """Stop with a message where a file or folder is not there."""
    for path in paths:
        if not path.exists():
            sys.exit(f"{path} is not there: the options name the data and the checkpoint (--help)")


def run(command: Sequence[object], stdin: BinaryIO | None = None) -> Usage:
    """Run one process to its end; SystemExit with the end of its stderr if it fails.

    Linux counts the peak of a process from the size of the one that started it, so callers stay small.
    """
    with tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            sys.stderr.write(stderr.read().decode(errors="replace")[-2000:])
            sys.exit(f"{' '.join(map(str, command))}: status {process.returncode}")
    return Usage(elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
