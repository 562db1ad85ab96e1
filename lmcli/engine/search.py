"""How outputs are searched for: `Sampling` (greedy, too) and `BeamSearch`, for all slots of a batch at once.

A search is told what the decoder gives for its rows (`advance`), and says which token each row takes next and
which row it continues. A slot is the place of one source; with beams it has a row for each. The arithmetic is
that of transformers' `generate`, in float32, so that the same tokens come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lmcli.engine.constraints import Constraints, is_any
from lmcli.engine.generation import GenerationConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Source(NamedTuple):
    """What one output is made from."""

    input_ids: Ints
    """(sequence,), with all special tokens; at most the tokenizer's `context_length`. Of a causal model:
    what its output continues."""
    max_new_tokens: int
    """Its own limit, at most that of the configuration."""
    forced_bos_token_id: int | None = None
    """What its first token must be: a language code. None: as the configuration says."""
    decoder_start_token_id: int | None = None
    """What its decoder starts with. None: as the configuration says."""
    seed: int = 0
    """What its sampling starts from, together with the seed of the configuration."""


class Hypothesis(NamedTuple):
    """One output."""

    token_ids: list[int]
    """Without the start token, a forced first token, and the end."""
    score: float
    """The sum of the log-probabilities of its tokens, divided by `num_tokens` to `length_penalty`."""
    num_tokens: int
    """How many tokens the score is of: those that were left out above count."""
    is_complete: bool
    """Whether the model ended it, and not the limit."""


class Choice(NamedTuple):
    """The best next tokens of each row."""

    top_logits: Floats
    """(rows, k), descending."""
    top_ids: Ints
    """(rows, k)."""
    log_normalizer: Floats
    """(rows, 1): the logarithm of the sum of the exponentials of all logits."""


class Moves(NamedTuple):
    """Rows that go on with the past of others; (moves,) each."""

    to: Ints
    source: Ints
    shared: Ints
    """How many positions at the beginning both have in common already."""


_NO_MOVES = Moves(*np.zeros((3, 0), np.int64))


class Search(Protocol):
    """The state of one search, by slot."""

    def admit(self, slots: Sequence[int], sources: Sequence[Source], given: Sequence[Ints]) -> None:
        """Begin with new sources in free slots. given: the tokens that stand before the first new one."""
        ...

    def num_candidates(self) -> int:
        """How many of the best tokens of each row the next step needs."""
        ...

    def advance(self, choice: Choice) -> Moves:
        """Take one step. Gives the rows whose past changes."""
        ...

    def tokens(self) -> Ints:
        """The token that each row takes next: (rows,)."""
        ...

    def lengths(self) -> Ints:
        """How many tokens the decoder has seen of each row: (rows,)."""
        ...

    def finished(self) -> list[int]:
        """The slots that ended with the last step."""
        ...

    def stop(self, slots: Sequence[int]) -> None:
        """End these slots, too: what they have is complete."""
        ...

    def result(self, slot: int) -> list[Hypothesis]:
        """The outputs of a slot, the best first."""
        ...

    def compact(self, slots: Sequence[int]) -> None:
        """Keep these slots only, as 0, 1, ..."""
        ...

    def grow(self, num_slots: int) -> None:
        """Have that many slots, the new ones free."""
        ...


class _Slots:
    """What every search knows of its slots. The arrays of `by_slot` are (slots, ...) and move together."""

    by_slot: ClassVar[tuple[str, ...]] = ("limits", "counts", "is_live", "is_stopped", "first", "num_given")

    def __init__(self, config: GenerationConfig, num_slots: int, capacity: int) -> None:
        self.config = config
        self.constraints = Constraints(config)
        self.eos = np.array(config.eos_token_ids, np.int64)
        self.limits = np.ones(num_slots, np.int64)
        self.counts = np.zeros(num_slots, np.int64)
        self.is_live = np.zeros(num_slots, np.bool_)
        self.is_stopped = np.zeros(num_slots, np.bool_)
        self.first = np.full(num_slots, -1, np.int64)
        self.num_given = np.ones(num_slots, np.int64)
        self.capacity = capacity
        self._finished: list[int] = []

    def admit(self, slots: Sequence[int], sources: Sequence[Source], given: Sequence[Ints]) -> None:
        for slot, source, tokens in zip(slots, sources, given, strict=True):
            first = source.forced_bos_token_id
            first = self.config.forced_bos_token_id if first is None else first
            self.first[slot] = -1 if first is None else first
            self.num_given[slot] = len(tokens)
            self.limits[slot] = source.max_new_tokens
        self.counts[slots] = 0
        self.is_live[slots] = True
        self.is_stopped[slots] = False

    def forced(self) -> Ints:
        """(slots,): the token that must come next, or -1."""
        forced = np.where(self.counts == 0, self.first, -1)
        if self.config.forced_eos_token_id is not None:
            forced[self.counts == self.limits - 1] = self.config.forced_eos_token_id
        return forced

    def places(self) -> Ints:
        """(slots,): where the newest token of each slot stands in its sequences, of a free slot anywhere."""
        places: Ints = np.minimum(self.num_given + self.counts, self.capacity) - 1
        return places

    def num_seen(self) -> Ints:
        """(slots,): how many tokens the decoder has seen; none of a free slot."""
        return np.where(self.is_live, self.num_given + self.counts - 1, 0)

    def end(self, ended: Flags) -> None:
        """Take live slots out of the search."""
        self._finished = np.flatnonzero(ended & self.is_live).tolist()
        self.is_live[self._finished] = False

    def finished(self) -> list[int]:
        """See Search."""
        return self._finished

    def stop(self, slots: Sequence[int]) -> None:
        """See Search."""
        self.is_stopped[slots] = True
        self.is_live[slots] = False
        self._finished = [*self._finished, *slots]

    def compact(self, slots: Sequence[int]) -> None:
        """See Search."""
        for name in self.by_slot:
            setattr(self, name, getattr(self, name)[slots])

    def grow(self, num_slots: int) -> None:
        """See Search."""
        more = num_slots - len(self.counts)
        for name in self.by_slot:
            array = getattr(self, name)
            # Whatever is in a free slot; `admit` sets it all.
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)]))

    def output(self, slot: int, sequence: Ints, score: float) -> Hypothesis:
        """A hypothesis from the new tokens of a sequence, its end included."""
        tokens: list[int] = sequence.tolist()
        num_tokens = len(tokens)
        # With forced_eos_token_id the last token is the end whether the model meant it or not.
        was_cut = num_tokens == self.limits[slot] and self.config.forced_eos_token_id is not None
        is_complete = bool(tokens) and tokens[-1] in self.config.eos_token_ids
        if is_complete:
            tokens = tokens[:-1]
        if tokens and tokens[0] == self.first[slot]:
            tokens = tokens[1:]
        is_complete = (is_complete and not was_cut) or bool(self.is_stopped[slot])
        return Hypothesis(tokens, score, num_tokens, is_complete)


class Sampling(_Slots):
    """One output of each source, token by token: the likeliest, or with `do_sample` a drawn one."""

    by_slot = (*_Slots.by_slot, "_sequences", "_sums")

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
        return _NO_MOVES

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


# What transformers adds to scores that are out of the race.
_OUT = np.float32(-1e9)
# What the worst output counts as long as there are too few: any is better, whatever its penalty makes of it.
_EMPTY = np.float32(-np.inf)


class BeamSearch(_Slots):
    """`num_beams` outputs of each source at once, as transformers 4.57's `_beam_search` defines it.

    Of a beam that several beams continue, one stays in its row, so the others alone have to be moved; beams
    are kept in the order of their scores, and `_rows` says in which row each one lies.
    """

    by_slot = (*_Slots.by_slot, "_sequences", "_scores", "_rows", "_num_done", "_worst_done")

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


def by_sample(
    sources: Sequence[Source], config: GenerationConfig, vocab_size: int
) -> tuple[Sequence[Source], GenerationConfig, int]:
    """Samples of one source as sources of their own; the configuration, and how many there are of each."""
    if not config.do_sample:
        return sources, config, 1
    num_each = config.num_return_sequences
    config = replace(config, top_k=min(config.top_k or vocab_size, vocab_size))
    return (
        [
            source._replace(seed=source.seed * num_each + sample)
            for source in sources
            for sample in range(num_each)
        ],
        config,
        num_each,
    )


def make_search(config: GenerationConfig, num_slots: int, capacity: int) -> Search:
    """The search that a configuration asks for, for at most `capacity` given and new tokens together."""
    kind = BeamSearch if config.num_beams > 1 else Sampling
    return kind(config, num_slots, capacity)
