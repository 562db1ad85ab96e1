"""`Sampling`: one output of each source, token by token; greedy, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmcli.engine.constraints import is_any
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import NO_MOVES, Choice, Floats, Hypothesis, Ints, Moves, SlotSearch, Source


class Sampling(SlotSearch):
    """One output of each source, token by token: the likeliest, or with `do_sample` a drawn one."""

    by_slot = (*SlotSearch.by_slot, "_sequences", "_sums")

    def __init__(self, config: GenerationConfig, num_slots: int, capacity: int) -> None:
        super().__init__(config, num_slots, capacity)
        self._sequences = np.zeros((num_slots, self.capacity), np.int64)
        self._sums = np.zeros(num_slots, np.float64)
        self._draws = [np.random.default_rng(0)] * num_slots if config.do_sample else []

    def admit(self, slots: Sequence[int], sources: Sequence[Source], given: Sequence[Ints]) -> None:
        """See Search."""
        super().admit(slots, sources, given)
        for slot, tokens in zip(slots, given, strict=True):
            self._sequences[slot, : len(tokens)] = tokens
        self._sums[slots] = 0
        if self.config.do_sample:
            for slot, source in zip(slots, sources, strict=True):
                self._draws[slot] = np.random.default_rng([self.config.seed, source.seed])

    def num_candidates(self) -> int:
        """See Search."""
        wanted = self.config.top_k if self.config.do_sample else 1
        return self.constraints.prepare(self._sequences, self.num_given, self.counts) + wanted

    def advance(self, choice: Choice) -> Moves:
        """See Search."""
        scores, ids = choice.top_logits.copy(), choice.top_ids.copy()
        self.constraints.apply(scores, ids, forced := self.forced())
        best = self._draw(scores) if self.config.do_sample else scores.argmax(axis=1)
        rows = np.arange(len(best))
        tokens = ids[rows, best]
        log_probabilities = choice.top_logits[rows, best] - choice.log_normalizer[:, 0]
        self._sums += np.where(forced >= 0, 0, log_probabilities)
        self.counts += self.is_live
        self._sequences[rows, self.places()] = tokens
        ended = is_any(tokens, self.eos) | (self.counts >= self.limits)
        self.end(ended)
        return NO_MOVES

    def tokens(self) -> Ints:
        """See Search."""
        return self._sequences[np.arange(len(self.counts)), self.places()]

    def lengths(self) -> Ints:
        """See Search."""
        return self.num_seen()

    def result(self, slot: int) -> list[Hypothesis]:
        """See Search."""
        count = int(self.counts[slot])
        score = float(self._sums[slot]) / count**self.config.length_penalty
        start = self.num_given[slot]
        return [self.output(slot, self._sequences[slot, start : start + count], score)]

    def compact(self, slots: Sequence[int]) -> None:
        """See Search."""
        super().compact(slots)
        if self.config.do_sample:
            self._draws = [self._draws[slot] for slot in slots]

    def grow(self, num_slots: int) -> None:
        """See Search."""
        super().grow(num_slots)
        if self.config.do_sample:
            self._draws += [np.random.default_rng(0)] * (num_slots - len(self._draws))

    def _draw(self, scores: Floats) -> Ints:
        """Sample from the candidates' scores (rows, k) with temperature, top_k, top_p and min_p."""
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.config.top_k]
        best = np.take_along_axis(scores, order, axis=1).astype(np.float64)
        weights = np.exp((best - best[:, :1]) / self.config.temperature)
        weights /= weights.sum(axis=1, keepdims=True)
        # The likeliest tokens until their probabilities reach top_p, the one that crosses it included.
        weights[np.cumsum(weights, axis=1) - weights >= self.config.top_p] = 0
        weights[weights < self.config.min_p * weights[:, :1]] = 0
        heights = np.cumsum(weights, axis=1)
        drawn = np.zeros(len(scores), np.int64)
        for row in np.flatnonzero(self.is_live):
            point = self._draws[row].random() * heights[row, -1]
            drawn[row] = np.searchsorted(heights[row], point, side="right")
        places: Ints = order[np.arange(len(order)), np.minimum(drawn, order.shape[1] - 1)]
        return places
