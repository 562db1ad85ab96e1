"""Quality of the shipped models: lmcli beside transformers, on labelled data.

    python -m tests.bench.quality [--shared DIR]

For sentiment the accuracy on sst2-dev.tsv, for NER the entity F1 on wikigold.conll, for translation BLEU and
chrF on tatoeba-en-fr.heldout.tsv; float32 bundles must give what transformers gives on every line, and int8
must keep the figure within half a point. Needs the extra `export`. DIR holds `data` and `checkpoints`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmcli.bundle.load import load_encoder
from lmcli.bundle.manifest import Precision
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device, num_cores
from lmcli.export.convert import export
from lmcli.export.options import ExportOptions
from lmcli.records.record import Record
from lmcli.tasks.ner import Ner, NerOptions
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from tests.bench.programs import SHARED, environment, run
from tests.bench.translate import Command, lmcli_command, score, transformers_command

TASKS = {"sentiment-en": (Sentiment, SentimentOptions()), "ner-en": (Ner, NerOptions())}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
HALF_A_POINT = 0.005

Spans = set[tuple[str, int, int]]


def main() -> None:
    """Compare every model in both precisions; exits with 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED)
    shared = parser.parse_args().shared
    missed = [*_sentiment(shared), *_ner(shared), *_translation(shared)]
    sys.exit("\n".join(missed) or None)


def _sentiment(shared: Path) -> Iterable[str]:
    from transformers import pipeline

    rows = [line.split("\t") for line in _lines(shared / "data" / "sst2-dev.tsv")[1:]]
    texts, gold = [row[0] for row in rows], [row[1] for row in rows]
    checkpoint = shared / "checkpoints" / "sentiment-en"
    classify = pipeline("text-classification", model=str(checkpoint), dtype="float32", device="cpu")
    theirs = [result["label"] for result in classify(texts, batch_size=32)]
    accuracy = _share(theirs, gold)
    print(f"sentiment-en, {len(texts)} lines: transformers accuracy {accuracy:.4f}")
    for precision in PRECISIONS:
        records = _run("sentiment-en", checkpoint, precision, texts)
        ours = [record.fields["sentiment"]["label"] for record in records]
        same, reached = _share(ours, theirs), _share(ours, gold)
        print(f"  lmcli {precision}: accuracy {reached:.4f}, {same:.2%} of the labels are the pipeline's")
        if (precision == "fp32" and same < 1) or reached < accuracy - HALF_A_POINT:
            yield f"sentiment-en {precision} misses its bound"


def _ner(shared: Path) -> Iterable[str]:
    from transformers import pipeline

    sentences = list(_conll(shared / "data" / "wikigold.conll"))
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    gold = [_gold_spans(sentence) for sentence in sentences]
    checkpoint = shared / "checkpoints" / "ner-en"
    find = pipeline(
        "token-classification",
        model=str(checkpoint),
        aggregation_strategy="first",
        dtype="float32",
        device="cpu",
    )
    theirs: list[Spans] = [
        {(entity["entity_group"], entity["start"], entity["end"]) for entity in found}
        for found in find(texts, batch_size=32)
    ]
    f1 = _f1(theirs, gold)
    print(f"ner-en, {len(texts)} sentences: transformers F1 {f1:.4f}")
    for precision in PRECISIONS:
        records = _run("ner-en", checkpoint, precision, texts)
        ours: list[Spans] = [
            {(entity["label"], entity["start"], entity["end"]) for entity in record.fields["entities"]}
            for record in records
        ]
        same, reached = _share(ours, theirs), _f1(ours, gold)
        print(f"  lmcli {precision}: F1 {reached:.4f}, {same:.2%} of the sentences are as the pipeline's")
        if (precision == "fp32" and same < 1) or reached < f1 - HALF_A_POINT:
            yield f"ner-en {precision} misses its bound"


def _translation(shared: Path) -> Iterable[str]:
    checkpoint = shared / "checkpoints" / "translate-en-fr"
    heldout = shared / "data" / "tatoeba-en-fr.heldout.tsv"
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "source.txt", Path(name) / "target.txt"
        sentences = [line.split("\t")[0] for line in _lines(heldout)]
        source.write_text("\n".join([*sentences, ""]), encoding="utf-8")

        def run_over_heldout(command: Command, num_beams: int) -> tuple[list[str], dict[str, float]]:
            run(command(num_beams, source, target))
            return _lines(target), score(heldout, target)

        bundles = {
            precision: _export("translate-en-fr", checkpoint, precision, Path(name) / precision)
            for precision in PRECISIONS
        }
        for num_beams in (4, 1):
            generate = transformers_command(environment(), checkpoint, num_cores())
            theirs, wanted = run_over_heldout(generate, num_beams)
            print(f"translate-en-fr, {len(theirs)} lines, {num_beams} beams: transformers {_show(wanted)}")
            for precision, bundle in bundles.items():
                ours, reached = run_over_heldout(lmcli_command(bundle, num_cores()), num_beams)
                same = _share(ours, theirs)
                print(f"  lmcli {precision}: {_show(reached)}, {same:.2%} of the lines are as transformers'")
                too_low = reached["bleu"] < wanted["bleu"] - 100 * HALF_A_POINT
                if (precision == "fp32" and same < 1) or too_low:
                    yield f"translate-en-fr {precision} with {num_beams} beams misses its bound"


def _show(scores: dict[str, float]) -> str:
    return f"BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}"


def _run(name: str, checkpoint: Path, precision: Precision, texts: Sequence[str]) -> list[Record]:
    task, options = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        bundle = read_bundle(_export(name, checkpoint, precision, Path(folder)))
        with load_encoder(bundle, Device("cpu"), threads=num_cores(), report=print) as encoder:
            stage: Any = task(bundle.manifest, encoder, options)
            return list(stage(Record(text) for text in texts))


def _export(name: str, checkpoint: Path, precision: Precision, folder: Path) -> Path:
    settings = ExportOptions(precision=precision)
    return export(str(checkpoint), name, settings, parent=folder, report=lambda _: None)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def _conll(path: Path) -> Iterable[list[tuple[str, str]]]:
    """Sentences as (word, label) pairs."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        words = [line.split() for line in block.split("\n") if line.strip()]
        if words:
            yield [(word[0], word[-1]) for word in words]


def _gold_spans(sentence: Sequence[tuple[str, str]]) -> Spans:
    """IO labels as spans of the words joined by spaces: neighbours of one kind are one entity."""
    spans: list[tuple[str, int, int]] = []
    position, before = 0, ""
    for word, label in sentence:
        kind = label.partition("-")[2]
        if kind and kind == before:
            spans[-1] = (kind, spans[-1][1], position + len(word))
        elif kind:
            spans.append((kind, position, position + len(word)))
        before, position = kind, position + len(word) + 1
    return set(spans)


def _share(ours: Sequence[object], theirs: Sequence[object]) -> float:
    return sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)


def _f1(found: Sequence[Spans], gold: Sequence[Spans]) -> float:
    """Micro F1 of exact spans with their labels, as conlleval counts."""
    right = sum(len(one & other) for one, other in zip(found, gold, strict=True))
    return 2 * right / (sum(map(len, found)) + sum(map(len, gold)))


if __name__ == "__main__":
    main()
