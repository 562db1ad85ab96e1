"""What pipelines and batch jobs cost, in one run on one machine: `make bench`.

    python -m tests.bench.jobs [--data FILE] [--lines N] [--runs N] [--json FILE]

Whole processes over the same lines, taking turns, with the models that ship with lmcli:

- `lmcli pipe` of two encoder stages beside the two stages alone, minus one start-up (bar: 5 % more at most)
- `--resume` beside the same run with a plain `--output` (bar: 3 % more at most)
- `--cache`, empty and full, beside the same run without

Each line of the table is a ratio of medians of wall time, and the same of CPU time, which a busy machine
moves less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.programs import SHARED, Usage, need, run, wait_until_quiet

LMCLI = [sys.executable, "-m", "lmcli"]


@dataclass
class Result:
    """What something costs beside what it is measured against."""

    name: str
    bar: str
    wall: float
    cpu: float


def main() -> None:
    """Run the programs in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "reviews.txt")
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    need(options.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = options.data.read_bytes().splitlines(keepends=True)[: options.lines]
        (folder / "lines.txt").write_bytes(b"".join(lines))
        (folder / "empty.txt").touch()
        usages = _measure(folder, options.runs)
    results = _compare(usages)
    _print(results, usages, len(lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def _measure(folder: Path, runs: int) -> dict[str, list[Usage]]:
    """Each program `runs` times, taking turns."""
    data, output = folder / "lines.txt", folder / "out.jsonl"
    sentiment: list[object] = [*LMCLI, "sentiment", "-O", "jsonl", data]
    programs: dict[str, list[object]] = {
        "start": [*LMCLI, "sentiment", "-O", "jsonl", folder / "empty.txt"],
        "sentiment": sentiment,
        "ner": [*LMCLI, "ner", "-O", "jsonl", data],
        "pipe": [*LMCLI, "pipe", "sentiment | ner", "-O", "jsonl", data],
        "output": [*sentiment, "-o", output],
        "resume": [*sentiment, "-o", output, "--resume"],
        "cache, empty": [*sentiment, "-o", output, "--cache"],
        "cache, full": [*sentiment, "-o", output, "--cache"],
    }
    usages: dict[str, list[Usage]] = {name: [] for name in programs}
    for turn in range(runs):
        for name, command in programs.items():
            print(f"run {turn + 1} of {runs}: {name}", file=sys.stderr, flush=True)
            wait_until_quiet(10)
            os.environ["LMCLI_HOME"] = str(folder / f"home{turn}")  # an empty cache for each turn
            usages[name].append(run(command))
    return usages


def _compare(usages: dict[str, list[Usage]]) -> list[Result]:
    wall = {name: statistics.median(each.seconds for each in found) for name, found in usages.items()}
    cpu = {name: statistics.median(each.cpu_seconds for each in found) for name, found in usages.items()}

    def result(name: str, bar: str, of: str, *others: str, less: tuple[str, ...] = ()) -> Result:
        ratios = []
        for seconds in (wall, cpu):
            base = sum(seconds[other] for other in others) - sum(seconds[other] for other in less)
            ratios.append(seconds[of] / base)
        return Result(name, bar, *ratios)

    return [
        result("pipe of two stages", "1.05", "pipe", "sentiment", "ner", less=("start",)),
        result("--resume", "1.03", "resume", "output"),
        result("--cache, nothing in it yet", "", "cache, empty", "output"),
        result("--cache, all in it", "", "cache, full", "output"),
    ]


def _print(results: list[Result], usages: dict[str, list[Usage]], num_lines: int) -> None:
    print(
        f"{num_lines} lines; medians, s: "
        + ", ".join(
            f"{name} {statistics.median(each.seconds for each in found):.2f}"
            for name, found in usages.items()
        )
    )
    print()
    print("| | bar | wall time | CPU time |")
    print("|---|---|---|---|")
    for each in results:
        print(f"| {each.name} | {each.bar} | {each.wall:.3f} | {each.cpu:.3f} |")


if __name__ == "__main__":
    main()
