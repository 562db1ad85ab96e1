"""`Embed`: the embedding of each text, with any model that has one for sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from lmcli.engine.embedder import Embedder, Floats
from lmcli.records.record import Record
from lmcli.tasks.base import annotate, check_field_name
from lmcli.tasks.counts import read_counts
from lmcli.tasks.scores import DECIMALS


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How `Embed` reports."""

    as_field: str = "embedding"
    """The name of the field that it adds."""

    def __post_init__(self) -> None:
        """Raise UsageError for a field name that records need themselves."""
        check_field_name(self.as_field)


class Embed:
    """Adds the embedding as a list of numbers; a text without words has none."""

    def __init__(self, embedder: Embedder, options: EmbedOptions) -> None:
        self._embedder = embedder
        self._options = options
        self.adds = self.columns = (options.as_field,)

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Embed records lazily, in order."""
        return annotate(
            records,
            lambda texts: self._embedder.submit(list(texts)),
            lambda _, embedding: {self._options.as_field: _numbers(embedding.vector)},
            empty={self._options.as_field: None},
            counts=lambda embedding: read_counts(self._options.as_field, embedding.num_tokens),
        )

    def lines(self, record: Record) -> list[str]:
        """The embedding as a JSON array."""
        embedding: list[float] | None = record.fields[self._options.as_field]
        return ["" if embedding is None else orjson.dumps(embedding).decode()]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []


def _numbers(vector: Floats) -> Any:
    # As float64, so that they are written with no more digits than they have been rounded to.
    return np.round(vector.astype(np.float64), DECIMALS).tolist()
