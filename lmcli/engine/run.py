"""`Run`: one decoder run, the loop that encoder-decoders and causal models share.

`Job` is what it works on; `by_sample` and `make_search` prepare it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from threading import Event, Lock
from typing import Generic, NamedTuple, Protocol, TypeVar

from lmcli.engine.beams import BeamSearch
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.sampling import Sampling
from lmcli.engine.search import Choice, Hypothesis, Ints, Moves, Search, Source


class Job:
    """Sources on their way through a model."""

    def __init__(self, num_sources: int, num_each: int) -> None:
        """num_each: how many sources in a row are samples of the same one."""
        self._outputs: list[list[Hypothesis]] = [[] for _ in range(num_sources)]
        self._num_each = num_each
        self.num_left = num_sources
        """How many sources are not finished yet."""
        self._lock = Lock()
        self._is_over = Event()
        self._error: BaseException | None = None
        if not num_sources:
            self._is_over.set()

    def finish(self, number: int, outputs: list[Hypothesis]) -> None:
        """What has become of a source."""
        self._outputs[number] = outputs
        with self._lock:
            self.num_left -= 1
            if not self.num_left:
                self._is_over.set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self._is_over.is_set()

    def fail(self, error: BaseException) -> None:
        """Have `results` raise an error, if there are sources that will not be finished."""
        with self._lock:
            if not self._is_over.is_set():
                self._error = error
                self._is_over.set()

    def results(self) -> list[list[Hypothesis]]:
        """Wait for the end: `num_return_sequences` outputs for each source, the best first.

        Only while the engine is open: once it is closed nothing comes of what is left.
        """
        self._is_over.wait()
        if self._error is not None:
            raise self._error
        each = self._num_each
        return [
            sorted(
                (found for group in self._outputs[start : start + each] for found in group),
                key=lambda hypothesis: -hypothesis.score,
            )
            for start in range(0, len(self._outputs), each)
        ]


class Place(NamedTuple):
    """A source of a job."""

    job: Job
    number: int


Slots = list[Place | None]
"""The source in each slot."""


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

    def __init__(self, vocab_size: int, stopping: Event) -> None:
        """`stopping` ends the run early."""
        self._vocab_size = vocab_size
        self._stopping = stopping

    @abstractmethod
    def has_more(self) -> bool:
        """Whether any source still waits."""

    @abstractmethod
    def fill(self, slots: Slots, cache: C, search: Search) -> None:
        """Give free slots to waiting sources; there may be more slots then."""

    def watch(self, slots: Slots, search: Search) -> None:
        """Look at the new tokens."""

    def decode(self, cache: C, search: Search) -> None:
        """Decode what fits at once, and with refills all there is."""
        slots: Slots = [None] * cache.num_slots
        self.fill(slots, cache, search)
        slots = _shrink(slots, cache, search, share=1)
        while any(place is not None for place in slots) and not self._stopping.is_set():
            wanted = min(search.num_candidates(), self._vocab_size)
            choice = cache.step(search.tokens(), search.lengths(), wanted)
            cache.take_over(search.advance(choice))
            self.watch(slots, search)
            finished = search.finished()
            for slot in finished:
                place = slots[slot]
                assert place is not None
                place.job.finish(place.number, search.result(slot))
                slots[slot] = None
            if cache.refills and self.has_more():
                self.fill(slots, cache, search)
            if finished:
                slots = _shrink(slots, cache, search, share=cache.worth_shrinking)


def _shrink(slots: Slots, cache: Cache, search: Search, *, share: float) -> Slots:
    """Close the gaps if no more than a `share` of the slots is live; the slots that are left."""
    live = [slot for slot, place in enumerate(slots) if place is not None]
    if not live or len(live) == len(slots) or len(live) > len(slots) * share:
        return slots
    # The last ones fill the gaps, so as few as possible move.
    behind = [slot for slot in live if slot >= len(live)]
    order = [slot if slots[slot] is not None else behind.pop() for slot in range(len(live))]
    cache.compact(order)
    search.compact(order)
    return [slots[slot] for slot in order]


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
