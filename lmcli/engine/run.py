"""`Run`: one decoder run, the loop that encoder-decoders and causal models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Event
from typing import Generic, Protocol, TypeVar

from lmcli.engine.search import Choice, Hypothesis, Ints, Moves, Search

Slots = list[int | None]
"""The number of the source in each slot."""


class Cache(Protocol):
    """The past of all rows of one decoder run. A slot has a row for each beam."""

    num_slots: int
    """How many slots it has."""
    refills: bool
    """Whether a slot may begin while others are under way."""
    worth_shrinking: float
    """From which share of live slots on it is worth to close the gaps."""

    def step(self, tokens: Ints, lengths: Ints, num_candidates: int) -> Choice:
        """Run the decoder on one more token of each row. tokens, lengths: (rows,)."""
        ...

    def take_over(self, moves: Moves) -> None:
        """Let rows continue what others have seen."""
        ...

    def compact(self, slots: Sequence[int]) -> None:
        """Keep these slots only, as 0, 1, ..."""
        ...


C = TypeVar("C", bound=Cache)


class Run(ABC, Generic[C]):
    """Slots that sources take and leave, until none is left."""

    def __init__(self, outputs: list[list[Hypothesis]], vocab_size: int, stopping: Event) -> None:
        """outputs: where the results go, by the number of the source. `stopping` ends the run early."""
        self._outputs = outputs
        self._vocab_size = vocab_size
        self._stopping = stopping

    @abstractmethod
    def fill(self, slots: Slots, cache: C, search: Search) -> None:
        """Give free slots to waiting sources."""

    def watch(self, slots: Slots, search: Search) -> None:
        """Look at the new tokens."""

    def decode(self, cache: C, search: Search) -> None:
        """Decode what fits at once, and with refills all there is."""
        slots: Slots = [None] * cache.num_slots
        self.fill(slots, cache, search)
        slots = _shrink(slots, cache, search, share=1)
        while any(number is not None for number in slots) and not self._stopping.is_set():
            wanted = min(search.num_candidates(), self._vocab_size)
            choice = cache.step(search.tokens(), search.lengths(), wanted)
            cache.take_over(search.advance(choice))
            self.watch(slots, search)
            finished = search.finished()
            for slot in finished:
                number = slots[slot]
                assert number is not None
                self._outputs[number] = search.result(slot)
                slots[slot] = None
            if finished:
                if cache.refills:
                    self.fill(slots, cache, search)
                slots = _shrink(slots, cache, search, share=cache.worth_shrinking)


def _shrink(slots: Slots, cache: Cache, search: Search, *, share: float) -> Slots:
    """Close the gaps if no more than a `share` of the slots is live; the slots that are left."""
    live = [slot for slot, number in enumerate(slots) if number is not None]
    if not live or len(live) == len(slots) or len(live) > len(slots) * share:
        return slots
    # The last ones fill the gaps, so as few as possible move.
    behind = [slot for slot in live if slot >= len(live)]
    order = [slot if slots[slot] is not None else behind.pop() for slot in range(len(live))]
    cache.compact(order)
    search.compact(order)
    return [slots[slot] for slot in order]
