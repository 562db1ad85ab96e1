"""`BeamSearch`: several outputs of each source side by side, of which the best ones go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmcli.engine.constraints import is_any
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Choice, Flags, Floats, Hypothesis, Ints, Moves, SlotSearch, Source

# What transformers adds to scores that are out of the race.
_OUT = np.float32(-1e9)
# What the worst output counts as long as there are too few: any is better, whatever its penalty makes of it.
_EMPTY = np.float32(-np.inf)


class BeamSearch(SlotSearch):
    """`num_beams` outputs of each source at once, as transformers 4.57's `_beam_search` defines it.

    Of a beam that several beams continue, one stays in its row, so the others alone have to be moved; beams
    are kept in the order of their scores, and `_rows` says in which row each one lies.
    """

    by_slot = (*SlotSearch.by_slot, "_sequences", "_scores", "_rows", "_num_done", "_worst_done")

    def __init__(self, config: GenerationConfig, num_slots: int, capacity: int) -> None:
        super().__init__(config, num_slots, capacity)
        beams = config.num_beams
        self._sequences = np.zeros((num_slots, beams, self.capacity), np.int64)  # by row, not by beam
        self._scores = np.zeros((num_slots, beams), np.float32)
        self._rows = np.tile(np.arange(beams), (num_slots, 1))
        self._done: list[list[_Done]] = [[] for _ in range(num_slots)]
        self._num_done = np.zeros(num_slots, np.int64)
        self._worst_done = np.full(num_slots, _EMPTY, np.float32)
        self._before = np.tri(beams, k=-1, dtype=np.bool_)

    def admit(self, slots: Sequence[int], sources: Sequence[Source], given: Sequence[Ints]) -> None:
        """See Search."""
        super().admit(slots, sources, given)
        for slot, tokens in zip(slots, given, strict=True):
            self._sequences[slot, :, : len(tokens)] = tokens
        self._scores[slots] = _OUT
        self._scores[slots, 0] = 0  # at first all beams are the same: only one may be continued
        self._rows[slots] = np.arange(self.config.num_beams)
        self._num_done[slots] = 0
        self._worst_done[slots] = _EMPTY
        for slot in slots:
            self._done[slot] = []

    def num_candidates(self) -> int:
        """See Search."""
        beams = self.config.num_beams
        flat = self._sequences.reshape(-1, self.capacity)
        given, counts = np.repeat(self.num_given, beams), np.repeat(self.counts, beams)
        return self.constraints.prepare(flat, given, counts) + self._num_kept()

    def _num_kept(self) -> int:
        """Enough that `num_beams` are left if all others end."""
        return max(2, 1 + len(self.eos)) * self.config.num_beams

    def advance(self, choice: Choice) -> Moves:
        """See Search."""
        num_slots, _ = self._scores.shape
        slots = np.arange(num_slots)[:, None]
        scores, ids = self._by_beam(choice, slots)  # (slots, beams, k)
        flat = (scores + self._scores[:, :, None]).reshape(num_slots, -1)
        order = np.argsort(-flat, axis=1, kind="stable")[:, : self._num_kept()]
        kept, parents = flat[slots, order], order // ids.shape[2]
        tokens = ids.reshape(num_slots, -1)[slots, order]
        ends = is_any(tokens, self.eos) | (self.counts + 1 >= self.limits)[:, None]
        self._finish_beams(kept, parents, tokens, ends & self.is_live[:, None])
        running = np.where(ends, kept + _OUT, kept)
        going_on = slots, np.argsort(-running, axis=1, kind="stable")[:, : self.config.num_beams]
        self.counts += self.is_live
        moved = self._continue(slots, parents[going_on], tokens[going_on], running[going_on])
        ended = ~self._can_improve() | ends.all(axis=1)
        self.end(ended)
        return moved

    def _by_beam(self, choice: Choice, slots: Ints) -> tuple[Floats, Ints]:
        """Log-probabilities and tokens under the rules, in the order of beams: (slots, beams, k)."""
        num_slots, beams = self._scores.shape
        scores, ids = choice.top_logits - choice.log_normalizer, choice.top_ids.copy()
        self.constraints.apply(scores, ids, np.repeat(self.forced(), beams))
        scores, ids = scores.reshape(num_slots, beams, -1), ids.reshape(num_slots, beams, -1)
        return scores[slots, self._rows], ids[slots, self._rows]

    def _finish_beams(self, scores: Floats, parents: Ints, tokens: Ints, ends: Flags) -> None:
        """Let candidates that ended, of the best `num_beams`, compete with those that ended before."""
        beams = self.config.num_beams
        just = ends[:, :beams]
        if self.config.early_stopping is True:
            just = just & (self._num_done < beams)[:, None]
        slots, places = just.nonzero()
        if not len(slots):
            return
        lengths = self.counts[slots] + 1
        penalty = (lengths.astype(np.float64) ** self.config.length_penalty).astype(np.float32)
        final = scores[slots, places] / penalty
        sequences = self._sequences[slots, self._rows[slots, parents[slots, places]]]
        starts = self.num_given[slots]
        sequences[np.arange(len(slots)), starts + lengths - 1] = tokens[slots, places]
        spans = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        for slot, score, sequence, (start, end) in zip(slots.tolist(), final, sequences, spans, strict=True):
            done = self._done[slot]
            done.append(_Done(score, sequence[start:end]))
            done.sort(key=lambda each: -each.score)  # stable: of equals the older one is better
            del done[beams:]
        for slot in set(slots.tolist()):
            self._num_done[slot] = len(self._done[slot])
            if len(self._done[slot]) == beams:
                self._worst_done[slot] = self._done[slot][-1].score

    def _continue(self, slots: Ints, parents: Ints, tokens: Ints, scores: Floats) -> Moves:
        """Go on with these beams, (slots, beams) each; the rows that move."""
        num_slots, beams = parents.shape
        self._scores = scores
        rows = self._rows[slots, parents]
        stays = ~((parents[:, :, None] == parents[:, None, :]) & self._before).any(axis=2)
        is_taken = np.zeros((num_slots, beams), np.bool_)
        is_taken[slots, np.where(stays, rows, rows[:, :1])] = True
        free = np.argsort(is_taken, axis=1, kind="stable")
        nth = np.maximum(np.cumsum(~stays, axis=1) - 1, 0)
        self._rows = np.where(stays, rows, free[slots, nth])
        moves = (~stays & self.is_live[:, None]).nonzero()
        base = moves[0] * beams
        moved = self._move(self._rows[moves] + base, rows[moves] + base)
        self._sequences[slots, self._rows, self.places()[:, None]] = tokens
        return moved

    def _move(self, to: Ints, source: Ints) -> Moves:
        """Let the rows `to` have the sequences of the rows `source`."""
        longest = int((self.num_given + self.counts).max()) - 1
        sequences = self._sequences.reshape(-1, self.capacity)[:, :longest]
        before, after = sequences[to], sequences[source]
        sequences[to] = after
        # Up to the first token that differs both have been through the same, to the bit.
        differs = np.ones((len(to), longest + 1), np.bool_)
        np.not_equal(before, after, out=differs[:, :longest])
        return Moves(to, source, differs.argmax(axis=1))

    def _can_improve(self) -> Flags:
        """Whether a running beam may still end better than the worst that ended: (slots,).

        transformers' heuristic, with its meaning of `early_stopping`.
        """
        config = self.config
        is_open: Flags = self._num_done < config.num_beams
        if config.early_stopping is True:
            return is_open
        longest = config.early_stopping == "never" and config.length_penalty > 0
        lengths = self.limits if longest else self.counts
        penalty = (np.maximum(lengths, 1).astype(np.float64) ** config.length_penalty).astype(np.float32)
        possible = self._scores[:, 0] / penalty
        can_improve: Flags = is_open | (possible > self._worst_done)
        return can_improve

    def tokens(self) -> Ints:
        """See Search."""
        newest: Ints = self._sequences[np.arange(len(self.counts)), :, self.places()]
        return newest.reshape(-1)

    def lengths(self) -> Ints:
        """See Search."""
        return np.repeat(self.num_seen(), self.config.num_beams)

    def result(self, slot: int) -> list[Hypothesis]:
        """See Search."""
        best = self._done[slot][: self.config.num_return_sequences]
        return [self.output(slot, done.sequence, float(done.score)) for done in best]

    def compact(self, slots: Sequence[int]) -> None:
        """See Search."""
        super().compact(slots)
        self._done = [self._done[slot] for slot in slots]

    def grow(self, num_slots: int) -> None:
        """See Search."""
        super().grow(num_slots)
        self._done += [[] for _ in range(num_slots - len(self._done))]


class _Done(NamedTuple):
    """An output that ended."""

    score: np.float32
    sequence: Ints
    """Its new tokens, the end included."""
