"""What may not come out next: the rules of a `GenerationConfig`, for all rows at once.

A decoder gives only the best tokens of each row. As the rules are known before a step, `Constraints` says how
many it must give so that enough are left; so the result is that of the whole vocabulary, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lmcli.engine.generation import GenerationConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BANNED = np.float32(-np.inf)


class Constraints:
    """The rules of one configuration."""

    def __init__(self, config: GenerationConfig) -> None:
        self._config = config
        self._suppressed = np.array(config.suppress_tokens, np.int64)
        self._varies = (
            config.no_repeat_ngram_size > 0
            or config.min_new_tokens > 0
            or bool(config.bad_words_ids)
            or config.repetition_penalty != 1
            or config.frequency_penalty > 0
        )
        self._banned: list[list[int]] = []
        self._seen: list[Ints] = []
        self._came: list[tuple[Ints, Ints]] = []

    def prepare(self, sequences: Ints, given: Ints, counts: Ints) -> int:
        """How many candidates beyond those that are wanted the next step must give.

        sequences: (rows, capacity); given, counts: (rows,), how many tokens of each row were given, and how
        many new ones it has so far.
        """
        extra = len(self._suppressed)
        if not self._varies:
            return extra
        sizes = list(zip(given.tolist(), counts.tolist(), strict=True))
        rows = [row[: start + count] for row, (start, count) in zip(sequences, sizes, strict=True)]
        self._banned = [list(self._bans(row, count)) for row, (_, count) in zip(rows, sizes, strict=True)]
        extra += max((len(banned) for banned in self._banned), default=0)
        if self._config.repetition_penalty != 1:
            self._seen = [np.unique(row) for row in rows]
            extra += max((len(seen) for seen in self._seen), default=0)
        if self._config.frequency_penalty > 0:
            self._came = [
                np.unique(row[start:], return_counts=True)
                for row, (start, _) in zip(rows, sizes, strict=True)
            ]
            extra += max((len(came) for came, _ in self._came), default=0)
        return extra

    def apply(self, scores: Floats, ids: Ints, forced: Ints) -> None:
        """Change scores (rows, k) of the candidates ids (rows, k) as the rules say, in place.

        forced: (rows,), the token that a row must take, or -1.
        """
        if self._varies:
            for row, banned in enumerate(self._banned):
                if self._config.repetition_penalty != 1:
                    self._penalize(scores[row], is_any(ids[row], self._seen[row]))
                if self._config.frequency_penalty > 0:
                    self._lower(scores[row], ids[row], *self._came[row])
                if banned:
                    scores[row, np.isin(ids[row], banned)] = BANNED
        if len(self._suppressed):
            scores[is_any(ids, self._suppressed)] = BANNED
        must = np.flatnonzero(forced >= 0)
        scores[must] = BANNED
        scores[must, 0], ids[must, 0] = 0, forced[must]

    def _penalize(self, scores: Floats, seen: npt.NDArray[np.bool_]) -> None:
        """Keskar et al. 2019, section 4.1: divide what is positive, multiply what is negative."""
        penalty = np.float32(self._config.repetition_penalty)
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)

    def _lower(self, scores: Floats, ids: Ints, came: Ints, counts: Ints) -> None:
        """Take the penalty off for each time that a token came out already. came: sorted."""
        if len(came):
            places = np.minimum(np.searchsorted(came, ids), len(came) - 1)
            times = np.where(came[places] == ids, counts[places], 0)
            scores -= np.float32(self._config.frequency_penalty) * times.astype(np.float32)

    def _bans(self, sequence: Ints, count: int) -> Iterator[int]:
        """sequence: all tokens so far; count: how many of them are new."""
        config = self._config
        if count < config.min_new_tokens:
            yield from config.eos_token_ids
        if config.no_repeat_ngram_size:
            yield from repeating(sequence, config.no_repeat_ngram_size)
        for words in config.bad_words_ids:
            *before, last = words
            if sequence[-len(before) :].tolist() == before:
                yield last


def is_any(ids: Ints, wanted: Ints) -> npt.NDArray[np.bool_]:
    """Which ids are among those wanted: np.isin, but fast for the usual one or two."""
    if len(wanted) > 4:
        return np.isin(ids, wanted)
    found = np.zeros(ids.shape, np.bool_)
    for token in wanted.tolist():
        found |= ids == token
    return found


def repeating(sequence: Ints, size: int) -> Sequence[int]:
    """The tokens that would end an n-gram of `size` which the sequence holds already."""
    if len(sequence) < size:
        return ()
    if size == 1:
        return np.unique(sequence).tolist()  # type: ignore[no-any-return]
    grams = np.lib.stride_tricks.sliding_window_view(sequence, size)
    same = (grams[:, :-1] == sequence[len(sequence) - size + 1 :]).all(axis=1)
    return np.unique(grams[same, -1]).tolist()  # type: ignore[no-any-return]
