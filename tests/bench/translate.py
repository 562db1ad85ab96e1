"""Speed, memory and BLEU of `lmcli translate` beside its peers, in one run on one machine: `make bench`.

    python -m tests.bench.translate [--runs N] [--only NAME ...] [--fp32 BUNDLE] [--json FILE] ...

Whole processes over the same short sentences of a book and of reviews (in longer ones this model repeats
itself to the limit), with the same checkpoint, beams, rule for stopping and limit: lmcli, CTranslate2 in int8
and float32 (a thread a batch, its own sorting and batching), and transformers' `generate` (torch, float32,
sorted batches of 32), which is slow and gets some hundred of the sentences. The programs take turns; seconds
are medians. Tokens are those of the output as the model's tokenizer counts them, </s> included; a net rate
leaves out the seconds that one sentence takes from a cold start. BLEU is on the held-out sentences. The bound
is the time of the model's products alone at the machine's integer GEMM peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from tests.bench.programs import SHARED, Usage, environment, need, run

PEERS = Path(__file__).parent / "translate_peers.py"
MAX_NEW_TOKENS = 200

Command = Callable[[int, Path, Path], list[object]]
"""The command line of a program, for a number of beams, an input and an output."""


@dataclass(frozen=True)
class Program:
    """One of those that take turns."""

    name: str
    command: Command
    is_slow: bool = False


@dataclass
class Result:
    """One program with a number of beams, over its sentences, a single one and the held-out ones."""

    name: str
    num_beams: int
    num_sentences: int
    num_source_tokens: int
    num_target_tokens: int
    seconds: float
    cpu_seconds: float
    first_seconds: float
    peak_mb: float
    bleu: float

    @property
    def rate(self) -> float:
        """Target tokens a second of the whole process."""
        return self.num_target_tokens / self.seconds

    @property
    def net_rate(self) -> float:
        """Target tokens a second without the start."""
        return self.num_target_tokens / (self.seconds - self.first_seconds)


def main() -> None:
    """Set up, run the programs in turn, print a table for each number of beams."""
    options = _options()
    need(*options.data, options.heldout, options.checkpoint)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(options, folder, environment())
        programs = list(bench.programs())
        results = [
            result
            for num_beams in options.beams
            for result in bench.measure(programs, num_beams, options.runs)
        ]
    for num_beams in options.beams:
        _print(num_beams, [result for result in results if result.num_beams == num_beams])
    _print_bound(results, options.checkpoint, options.threads)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    texts = [SHARED / "data" / name for name in ("chekhov.txt", "reviews.txt")]
    parser.add_argument("--data", type=Path, nargs="+", default=texts, help="English text")
    parser.add_argument("--heldout", type=Path, default=SHARED / "data" / "tatoeba-en-fr.heldout.tsv")
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "checkpoints" / "translate-en-fr")
    parser.add_argument("--int8", default="translate-en-fr", help="lmcli's bundle")
    parser.add_argument("--fp32", help="lmcli's bundle in float32, if it is to take part")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="programs whose names have one of these in them"
    )
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--max-characters", type=int, default=80, help="longer sentences are left out")
    parser.add_argument("--slow-sentences", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Bench:
    """The files and programs of one run."""

    def __init__(self, options: argparse.Namespace, folder: Path, python: Path) -> None:
        self._options = options
        self._folder = folder
        self._python = python
        found = chain.from_iterable(_sentences(text, options.max_characters) for text in options.data)
        sentences = list(islice(dict.fromkeys(found), options.sentences))
        heldout = options.heldout.read_text(encoding="utf-8").splitlines()
        self._book = self._write("book.txt", sentences)
        self._part = self._write("part.txt", sentences[: options.slow_sentences])
        self._one = self._write("one.txt", ["The train leaves at seven."])
        self._heldout = self._write("heldout.txt", [line.split("\t")[0] for line in heldout])

    def programs(self) -> Iterable[Program]:
        """Those that were asked for, with what they need prepared."""
        options = self._options
        generate = transformers_command(self._python, options.checkpoint, options.threads)
        everyone = [
            Program("lmcli int8", lmcli_command(options.int8, options.threads)),
            *([Program("lmcli fp32", lmcli_command(options.fp32, options.threads))] if options.fp32 else []),
            Program("CTranslate2 int8", self._ctranslate2("int8")),
            Program("CTranslate2 fp32", self._ctranslate2("float32")),
            Program("transformers fp32", generate, is_slow=True),
        ]
        return [program for program in everyone if any(word in program.name for word in options.only)]

    def measure(self, programs: list[Program], num_beams: int, runs: int) -> Iterable[Result]:
        """Each program `runs` times over its sentences and three times as often over one, taking turns."""
        whole: dict[str, list[Usage]] = {program.name: [] for program in programs}
        first: dict[str, list[float]] = {program.name: [] for program in programs}
        for turn in range(runs):
            for program in programs:
                name = program.name
                print(f"{num_beams} beams, run {turn + 1} of {runs}: {name}", file=sys.stderr, flush=True)
                source, target = self._files(program, num_beams)
                whole[name].append(run(program.command(num_beams, source, target)))
                one = self._folder / "one.out"
                first[name].extend(run(program.command(num_beams, self._one, one)).seconds for _ in range(3))
        for program in programs:
            source, target = self._files(program, num_beams)
            sentences, translations = _lines(source), _lines(target)
            if len(translations) != len(sentences):
                sys.exit(f"{program.name}: {len(sentences)} sentences, {len(translations)} translations")
            yield Result(
                name=program.name,
                num_beams=num_beams,
                num_sentences=len(sentences),
                num_source_tokens=self._num_tokens("source.spm", sentences),
                num_target_tokens=self._num_tokens("target.spm", translations),
                seconds=statistics.median(usage.seconds for usage in whole[program.name]),
                cpu_seconds=statistics.median(usage.cpu_seconds for usage in whole[program.name]),
                first_seconds=statistics.median(first[program.name]),
                peak_mb=max(usage.peak_mb for usage in whole[program.name]),
                bleu=self._bleu(program, num_beams),
            )

    def _ctranslate2(self, precision: str) -> Command:
        checkpoint, threads = self._options.checkpoint, self._options.threads
        model = self._folder / f"ctranslate2-{precision}"
        subprocess.run([self._python, PEERS, "convert", checkpoint, precision, model], check=True)
        start = [self._python, PEERS, "ctranslate2", checkpoint, model, precision]
        return lambda beams, source, target: [*start, beams, threads, source, target]

    def _files(self, program: Program, num_beams: int) -> tuple[Path, Path]:
        """What a program reads, and where its translations go."""
        source = self._part if program.is_slow else self._book
        return source, self._folder / f"{program.name}.{num_beams}.out"

    def _write(self, name: str, lines: list[str]) -> Path:
        path = self._folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def _num_tokens(self, model: str, lines: list[str]) -> int:
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(self._options.checkpoint / model))
        return sum(len(pieces) + 1 for pieces in processor.encode(lines))

    def _bleu(self, program: Program, num_beams: int) -> float:
        target = self._folder / "heldout.out"
        run(program.command(num_beams, self._heldout, target))
        return score(self._options.heldout, target)["bleu"]


def lmcli_command(bundle: object, threads: int) -> Command:
    """`lmcli translate`, every line a sentence."""
    start = [sys.executable, "-m", "lmcli", "translate", "--no-split", "--model", bundle]
    # CTranslate2 knows no other rule: it stops with as many finished outputs as beams.
    limits = ["--max-new-tokens", MAX_NEW_TOKENS, "--threads", threads, "--early-stopping", "yes"]
    return lambda beams, source, target: [*start, "--num-beams", beams, *limits, "-o", target, source]


def transformers_command(python: Path, checkpoint: Path, threads: int) -> Command:
    """`generate` in the peers' environment."""
    start = [python, PEERS, "transformers", checkpoint]
    return lambda beams, source, target: [*start, beams, threads, source, target]


def score(heldout: Path, translations: Path) -> dict[str, float]:
    """BLEU and chrF of a file of translations."""
    command = map(str, (environment(), PEERS, "score", heldout, translations))
    scores: dict[str, float] = json.loads(subprocess.check_output(list(command)))
    return scores


def _sentences(book: Path, max_characters: int) -> Iterable[str]:
    """The sentences of a Project Gutenberg text, its hard-wrapped lines joined, without the long ones."""
    from sentencex import segment  # type: ignore[import-untyped, unused-ignore]

    text = book.read_text(encoding="utf-8-sig")
    if "\n*** START" in text:
        text = text.split("\n***")[1].partition("\n")[2]
    for paragraph in text.split("\n\n"):
        for sentence in segment("en", " ".join(paragraph.split())):
            if 0 < len(sentence.strip()) <= max_characters:
                yield sentence.strip()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _print(num_beams: int, results: list[Result]) -> None:
    """A table; ratios are those of the first program to the others."""
    ours = results[0]
    print(f"\nnum_beams {num_beams}\n")
    print(
        f"| program | sentences | seconds | CPU seconds | sentences/s | tokens/s | {ours.name} is faster by "
        "| tokens/s, net | ratio | one sentence, s | ratio | peak memory, MB | BLEU |"
    )
    print("|---" * 13 + "|")
    for result in results:
        print(
            f"| {result.name} | {result.num_sentences} | {result.seconds:.1f} | {result.cpu_seconds:.1f} "
            f"| {result.num_sentences / result.seconds:.0f} "
            f"| {result.rate:.0f} | {ours.rate / result.rate:.2f} "
            f"| {result.net_rate:.0f} | {ours.net_rate / result.net_rate:.2f} "
            f"| {result.first_seconds:.2f} | {result.first_seconds / ours.first_seconds:.2f} "
            f"| {result.peak_mb:.0f} | {result.bleu:.1f} |"
        )


def _print_bound(results: list[Result], checkpoint: Path, threads: int) -> None:
    """What the int8 programs reach of the machine's peak: their net rates, the products of the model."""
    from tests.bench.anatomy import gemm_peak  # large: it would count as memory of the programs

    config = json.loads((checkpoint / "config.json").read_text())
    width = config["d_model"]
    peak = threads * max(
        gemm_peak(width, columns) for columns in (config["encoder_ffn_dim"], config["vocab_size"])
    )
    source, target = _operations(config)
    print(
        f"\n{source / 1e6:.1f} million operations a source token, "
        f"{target / 1e6:.1f} a target token and beam; "
        f"peak of the integer GEMM, {threads} threads: {peak:.0f} GOPS"
    )
    for result in results:
        if "int8" in result.name:
            work = result.num_source_tokens * source + result.num_target_tokens * target * result.num_beams
            bound = result.num_target_tokens / (work / peak / 1e9)
            print(
                f"{result.name}, num_beams {result.num_beams}: "
                f"bound {bound:.0f} tokens/s, reached {result.net_rate / bound:.0%}"
            )


def _operations(config: dict[str, int]) -> tuple[int, int]:
    """Of a Marian model, for a source token and for a target token: two for each weight it meets."""
    width, layers = config["d_model"], config["decoder_layers"]
    square = width * width
    encoder = config["encoder_layers"] * (4 * square + 2 * width * config["encoder_ffn_dim"])
    source = encoder + layers * 2 * square  # the keys and values that the decoder looks at
    target = layers * (6 * square + 2 * width * config["decoder_ffn_dim"]) + width * config["vocab_size"]
    return 2 * source, 2 * target


if __name__ == "__main__":
    main()
