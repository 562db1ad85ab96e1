"""The same answers as the pipelines of transformers, on random models exported in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from lmcli.export.prove import sample_lines
from lmcli.records.record import Record
from lmcli.tasks.ner import Ner, NerOptions
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from tests import tiny
from tests.export.checkpoints import write_checkpoint

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LINES = [line for line in sample_lines() if len(line) < 128]  # the pipelines cut off what is longer
Kind = Literal["text-classification", "token-classification"]


def export_checkpoint(folder: Path, task: Kind) -> tuple[Path, Path]:
    """A checkpoint of a random BERT model, and the bundle made of it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from lmcli.export.convert import export
    from lmcli.export.options import ExportOptions

    checkpoint = write_checkpoint(folder / "checkpoint", "bert", task)
    options = ExportOptions(precision="fp32")
    return checkpoint, export(str(checkpoint), "ours", options, parent=folder, report=lambda _: None)


@pytest.fixture(scope="module")
def token_classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_checkpoint(tmp_path_factory.mktemp("ner"), "token-classification")


@pytest.fixture(scope="module")
def text_classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_checkpoint(tmp_path_factory.mktemp("sentiment"), "text-classification")


def run(task: Ner | Sentiment) -> list[Any]:
    [field] = task.adds
    return [record.fields[field] for record in task(map(Record, LINES))]


@pytest.mark.parametrize("strategy", ["first", "average", "max", "simple"])
def test_entities_are_those_of_transformers(token_classifier: tuple[Path, Path], strategy: Any) -> None:
    from transformers import pipeline

    checkpoint, bundle = token_classifier
    pipe = pipeline("token-classification", str(checkpoint), aggregation_strategy=strategy, device="cpu")
    with tiny.open_encoder(bundle) as (manifest, encoder):
        ours = run(Ner(manifest, encoder, NerOptions(strategy=strategy)))
    theirs = [pipe(line) for line in LINES]
    assert sum(map(len, ours)) > len(LINES)
    for line, mine, other in zip(LINES, ours, theirs, strict=True):
        assert mine == entities_of(line, other), line


def entities_of(line: str, found: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "label": entity["entity_group"],
            "text": line[entity["start"] : entity["end"]],
            "start": entity["start"],
            "end": entity["end"],
            "score": pytest.approx(float(entity["score"]), abs=1e-4),
        }
        for entity in found
    ]


def test_labels_are_those_of_transformers(text_classifier: tuple[Path, Path]) -> None:
    from transformers import pipeline

    checkpoint, bundle = text_classifier
    pipe = pipeline("text-classification", str(checkpoint), top_k=None, device="cpu")
    with tiny.open_encoder(bundle) as (manifest, encoder):
        ours = run(Sentiment(manifest, encoder, SentimentOptions(all_scores=True)))
    theirs = [pipe(line)[0] for line in LINES]
    assert {value["label"] for value in ours} > {ours[0]["label"]}
    for mine, other in zip(ours, theirs, strict=True):
        scores = {entry["label"]: float(entry["score"]) for entry in other}
        best = max(scores, key=scores.__getitem__)
        assert mine == {
            "label": best,
            "score": pytest.approx(scores[best], abs=1e-5),
            "scores": pytest.approx(scores, abs=1e-5),
        }
