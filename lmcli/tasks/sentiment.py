"""`Sentiment`: a label and a score for each text, with any model that classifies whole texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmcli.bundle.manifest import Manifest
from lmcli.engine.encoder import Encoded, Encoder
from lmcli.records.record import Record
from lmcli.tasks.base import annotate, check_field_name
from lmcli.tasks.counts import read_counts
from lmcli.tasks.scores import ACTIVATIONS, Floats, rounded


@dataclass(frozen=True, kw_only=True)
class SentimentOptions:
    """How `Sentiment` reports."""

    all_scores: bool = False
    """Also the score of every label."""
    threshold: float = 0.5
    """From which score on a model with several labels per text reports a label."""
    as_field: str = "sentiment"
    """The name of the field that it adds."""

    def __post_init__(self) -> None:
        """Raise UsageError for a field name that records need themselves."""
        check_field_name(self.as_field)


class Sentiment:
    """Adds `{"label", "score"}`; for multi-label models also `labels`, on request `scores` of all labels.

    A text longer than the model's context is scored in overlapping windows. Its scores are the mean of the
    windows' scores, each weighted by the number of tokens that no window before it holds.
    """

    def __init__(self, manifest: Manifest, encoder: Encoder, options: SentimentOptions) -> None:
        self._labels = manifest.labels
        self._multi_label = manifest.activation == "sigmoid" and len(manifest.labels) > 1
        self._activation = ACTIVATIONS[manifest.activation]
        self._encoder = encoder
        self._options = options
        self.adds = (options.as_field,)
        shown = ["label", "score"] + ["labels"] * self._multi_label + ["scores"] * options.all_scores
        self.columns = tuple(f"{options.as_field}.{name}" for name in shown)

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Label records lazily, in order."""
        empty = dict.fromkeys(column.rpartition(".")[2] for column in self.columns)
        return annotate(
            records,
            lambda texts: self._encoder.submit(list(texts)).results,
            lambda _, encoded: {self._options.as_field: self._value(encoded)},
            empty={self._options.as_field: empty},
            counts=lambda encoded: read_counts(self._options.as_field, encoded.num_tokens),
        )

    def lines(self, record: Record) -> list[str]:
        """Label, score, (all scores,) text: separated by tabs, the text last, as it may hold tabs itself."""
        found = record.fields[self._options.as_field]
        if found["label"] is None:
            return [""]
        label = ",".join(found["labels"]) or "-" if self._multi_label else found["label"]
        scores = ",".join(f"{name}={score:.4f}" for name, score in found.get("scores", {}).items())
        score = f"{found['score']:.4f}"
        return ["\t".join([label, score, *([scores] if scores else []), record.text])]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def _value(self, encoded: Encoded) -> dict[str, Any]:
        scores = _merge(encoded, self._activation(np.stack(encoded.logits)))
        best = int(scores.argmax())
        value: dict[str, Any] = {"label": self._labels[best], "score": rounded(scores[best])}
        by_label = {name: rounded(score) for name, score in zip(self._labels, scores, strict=True)}
        if self._multi_label:
            value["labels"] = [name for name, score in by_label.items() if score >= self._options.threshold]
        if self._options.all_scores:
            value["scores"] = by_label
        return value


def _merge(encoded: Encoded, scores: Floats) -> Floats:
    """Scores of a text from those of its windows: (windows, labels) to (labels,)."""
    if len(scores) == 1:
        only: Floats = scores[0]
        return only
    merged: Floats = np.average(scores, axis=0, weights=encoded.weights)
    return merged
