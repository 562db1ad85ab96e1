"""Speed and memory of `lmcli sentiment` beside its peers, in one run on one machine: `make bench`.

    python -m tests.bench.encoders [--data FILE] [--checkpoint DIR] [--runs N] [--json FILE]

Whole processes over the same file with the same checkpoint: lmcli (the int8 bundle that it ships), the
transformers pipeline (torch, float32, batches of 32), optimum's pipeline over its int8 graph (avx512_vnni
preset), and a bare loop over that graph in batches sorted by length, which gives up what lmcli keeps. The
peers live in an environment of their own, `.bench`. Speeds are ratios of medians; the machine's noise is
in every column alike, as the programs take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.programs import SHARED, Usage, environment, need, run

PEERS = Path(__file__).parent / "peers.py"


@dataclass
class Result:
    """One program over the file, and over a single line."""

    name: str
    seconds: float
    lines_per_second: float
    first_line_seconds: float
    peak_mb: float


def main() -> None:
    """Set up, run the programs in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "reviews.txt")
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "checkpoints" / "sentiment-en")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    need(options.data, options.checkpoint)
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8"
        subprocess.run([python, PEERS, "prepare", options.checkpoint, int8], check=True)
        commands = {
            "lmcli": [sys.executable, "-m", "lmcli", "sentiment"],
            "transformers fp32": [python, PEERS, "transformers", options.checkpoint],
            "optimum int8": [python, PEERS, "optimum", int8],
            "bare loop int8": [python, PEERS, "loop", int8],
        }
        results = _measure(commands, options.data, options.runs, Path(folder) / "one.txt")
    _print(results)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def _measure(commands: dict[str, list[object]], data: Path, runs: int, one: Path) -> list[Result]:
    """Each program `runs` times over the file and three times as often over one line, taking turns."""
    num_lines = data.read_bytes().count(b"\n")
    one.write_text("A quiet triumph, and its last ten minutes are unforgettable.\n")
    whole: dict[str, list[Usage]] = {name: [] for name in commands}
    single: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs):
        for name, command in commands.items():
            print(f"run {turn + 1} of {runs}: {name}", file=sys.stderr, flush=True)
            whole[name].append(_run(command, data))
            single[name].extend(_run(command, one).seconds for _ in range(3))
    results = []
    for name in commands:
        seconds = statistics.median(usage.seconds for usage in whole[name])
        peak = max(usage.peak_mb for usage in whole[name])
        first = statistics.median(single[name])
        results.append(Result(name, seconds, num_lines / seconds, first, peak))
    return results


def _run(command: list[object], data: Path) -> Usage:
    """One process that reads `data` on stdin."""
    with data.open("rb") as stdin:
        return run(command, stdin)


def _print(results: list[Result]) -> None:
    ours = results[0]
    print("| program | seconds | lines/s | lmcli is faster by | one line, s | ratio | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        print(
            f"| {result.name} | {result.seconds:.1f} | {result.lines_per_second:.0f} "
            f"| {result.seconds / ours.seconds:.1f} | {result.first_line_seconds:.2f} "
            f"| {result.first_line_seconds / ours.first_line_seconds:.1f} | {result.peak_mb:.0f} |"
        )


if __name__ == "__main__":
    main()
