"""`Search`: how outputs are searched for, for all slots of a batch at once; `SlotSearch`: their common part.

A search is told what the decoder gives for its rows (`advance`), and says which token each row takes next and
which row it continues. A slot is the place of one source; with beams it has a row for each. The arithmetic is
that of transformers' `generate`, in float32, so that the same tokens come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lmcli.engine.constraints import Constraints
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


Listen = Callable[[int, int], None]
"""Hears of each new token as it comes: the number of the source, the token's id."""


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


NO_MOVES = Moves(*np.zeros((3, 0), np.int64))


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


class SlotSearch:
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
        """See Search."""
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
