"""`Ner`: the entities in each text, with any model that classifies tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmcli.bundle.manifest import Manifest
from lmcli.engine.encoder import Encoded, Encoder
from lmcli.engine.tokenizer import Window
from lmcli.records.record import Record
from lmcli.tasks.base import annotate, check_field_name
from lmcli.tasks.counts import read_counts
from lmcli.tasks.scores import rounded, softmax
from lmcli.tasks.spans import Entity, Labels, Strategy, Tokens, decode
from lmcli.tasks.styles import STYLES, Style
from lmcli.tasks.words import starts_words


@dataclass(frozen=True, kw_only=True)
class NerOptions:
    """How `Ner` finds and reports entities."""

    strategy: Strategy = "first"
    """How the labels of a word's tokens become the label of the word."""
    style: Style = "inline"
    """The text form of a record."""
    as_field: str = "entities"
    """The name of the field that it adds."""

    def __post_init__(self) -> None:
        """Raise UsageError for a field name that records need themselves."""
        check_field_name(self.as_field)


class Ner:
    """Adds a list of `{"label", "text", "start", "end", "score"}`, offsets in characters of the text.

    The text of an entity is always `text[start:end]`. A text longer than the model's context is read in
    overlapping windows; each token is judged by the window in which it stands farther from an edge.
    """

    def __init__(self, manifest: Manifest, encoder: Encoder, options: NerOptions) -> None:
        self._labels = Labels(manifest.labels)
        self._encoder = encoder
        self._options = options
        self.adds = self.columns = (options.as_field,)

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Annotate records lazily, in order."""
        return annotate(
            records,
            lambda texts: self._encoder.submit(list(texts)).results,
            lambda text, encoded: {self._options.as_field: self._value(text, encoded)},
            empty={self._options.as_field: []},
            counts=lambda encoded: read_counts(self._options.as_field, encoded.num_tokens),
        )

    def lines(self, record: Record) -> list[str]:
        """The record in the style of the options."""
        return STYLES[self._options.style](record, record.fields[self._options.as_field])

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def _value(self, text: str, encoded: Encoded) -> list[dict[str, Any]]:
        tokens = self._tokens(text, encoded)
        entities = decode(tokens, self._labels, self._options.strategy)
        return [value for entity in entities if (value := _value_of(text, entity))]

    def _tokens(self, text: str, encoded: Encoded) -> Tokens:
        """The tokens of all windows as one sequence, without the special ones."""
        kept = [*_kept(encoded.windows)]
        windows = list(zip(encoded.windows, kept, strict=True))
        input_ids = np.concatenate([window.input_ids[keep] for window, keep in windows])
        offsets = np.concatenate([window.offsets[keep] for window, keep in windows])
        logits = np.concatenate([rows[keep] for rows, keep in zip(encoded.logits, kept, strict=True)])
        return Tokens(
            starts=offsets[:, 0],
            ends=offsets[:, 1],
            scores=softmax(logits),
            starts_word=starts_words(text, input_ids, offsets, self._encoder.tokenizer),
        )


def _value_of(text: str, entity: Entity) -> dict[str, Any] | None:
    """An entity as JSON, without the space that some tokenizers count to the token behind it."""
    start, end = entity.start, entity.end
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        return None
    score = rounded(entity.score)
    return {"label": entity.label, "text": text[start:end], "start": start, "end": end, "score": score}


def _kept(windows: Sequence[Window]) -> Iterator[npt.NDArray[np.int64]]:
    """For each window the positions of the tokens that it judges: of an overlap, its own half."""
    overlaps = [window.overlap for window in windows] + [0]
    for index, window in enumerate(windows):
        tokens = np.flatnonzero(~window.special)
        before, after = overlaps[index], overlaps[index + 1]
        yield tokens[before // 2 : len(tokens) - (after - after // 2)]
