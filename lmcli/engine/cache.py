"""The keys and values that a decoder attends to, by slot: `InPlaceCache` and `GrowingCache`.

A slot is the place of one source; it has one row for each of its beams. Self-attention has keys and values of
each row, cross-attention of each source.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lmcli.engine.run import Cache
from lmcli.engine.search import Choice, Moves
from lmcli.engine.session import Binding, Session

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

CHOICE = ("top_logits", "top_ids", "log_normalizer")


class CrossCache(Cache, Protocol):
    """A cache that holds keys and values of sources as well. It begins without slots."""

    room: int
    """How many slots it may have."""

    def grow(self, num_slots: int) -> None:
        """Have that many slots, the new ones at the end."""
        ...

    def admit(self, slots: Sequence[int], cross: Mapping[str, Floats]) -> None:
        """Give slots to new sources. cross: (sources, heads, source, head size) by input name."""
        ...


class Buffers(threading.local):
    """Memory that one run of a thread after another takes: new pages would be cleared each time."""

    def __init__(self) -> None:
        self._kept: dict[str, Floats] = {}

    def take(self, name: str, shape: tuple[int, ...], kind: type | None) -> Floats:
        """An array with whatever the last one of that name has left in it, finite in any case."""
        size = math.prod(shape)
        if name not in self._kept or self._kept[name].size < size:
            self._kept[name] = np.zeros(size, kind)
        return self._kept[name][:size].reshape(shape)


class InPlaceCache:
    """Buffers of a fixed size that the graph updates where they lie; each row has its own length.

    Sources are padded to `source_length`, and masked. What a row computes depends on that length and on
    nothing else in the batch.
    """

    refills = True
    worth_shrinking = 0.75

    def __init__(
        self,
        decoder: Session,
        buffers: Buffers,
        *,
        room: int,
        num_beams: int,
        capacity: int,
        source_length: int,
    ) -> None:
        self._decoder = decoder
        self._num_beams = num_beams
        rows = room * num_beams
        self._past_names, self._past = _take(buffers, decoder, "past.", rows, capacity)
        self._cross_names, self._cross = _take(buffers, decoder, "cross.", room, source_length)
        self._ids = np.zeros((rows, 1), np.int64)
        self._lengths = np.zeros(rows, np.int32)
        self._total = np.ones((), np.int32)
        self._mask = np.zeros((room, source_length), np.int32)
        self._k = np.zeros(1, np.int64)
        self._binding: Binding | None = None
        self.room = room
        self.num_slots = 0

    def grow(self, num_slots: int) -> None:
        """See CrossCache."""
        self.num_slots = num_slots
        self._binding = None

    def admit(self, slots: Sequence[int], cross: Mapping[str, Floats]) -> None:
        """See CrossCache."""
        length = next(iter(cross.values())).shape[2]
        for name, buffer in zip(self._cross_names, self._cross, strict=True):
            buffer[slots, :, :length] = cross[name]
        self._mask[slots] = np.arange(self._mask.shape[1]) < length

    def step(self, tokens: Ints, lengths: Ints, num_candidates: int) -> Choice:
        """See Cache."""
        rows = self.num_slots * self._num_beams
        self._ids[:rows, 0] = tokens
        self._lengths[:rows] = lengths
        self._total[()] = lengths.max() + 1
        if self._binding is None or num_candidates != self._k[0]:
            self._k[0] = num_candidates
            self._binding = self._binding or self._bind()
            self._choice = bind_choice(self._binding, rows, num_candidates)
        self._binding.run()
        return self._choice

    def take_over(self, moves: Moves) -> None:
        """See Cache. Beams of a source differ by a few tokens mostly, so there is little to copy."""
        copy_moved(self._past, moves, self._lengths)

    def compact(self, slots: Sequence[int]) -> None:
        """See Cache."""
        beams, used = self._num_beams, int(self._total)
        for to, source in enumerate(slots):  # none is needed any more where another one moves to
            if to != source:
                to_rows, rows = (slice(slot * beams, (slot + 1) * beams) for slot in (to, source))
                self._past[:, to_rows, :, :used] = self._past[:, rows, :, :used]
                self._cross[:, to] = self._cross[:, source]
                self._mask[to] = self._mask[source]
        self.num_slots = len(slots)
        self._binding = None

    def _bind(self) -> Binding:
        """Bind the part of the buffers that the slots use."""
        slots, rows = self.num_slots, self.num_slots * self._num_beams
        binding = self._decoder.bind()
        for name, past in zip(self._past_names, self._past, strict=True):
            binding.in_place(name, name.replace("past.", "present."), past[:rows])
        for name, cross in zip(self._cross_names, self._cross, strict=True):
            binding.input(name, cross[:slots])
        binding.input("input_ids", self._ids[:rows])
        binding.input("past_length", self._lengths[:rows])
        binding.input("total_length", self._total)
        binding.input("source_mask", self._mask[:slots])
        binding.input("k", self._k)
        return binding


def bind_choice(binding: Binding, rows: int, k: int) -> Choice:
    """Bind the k best tokens of each row to new arrays."""
    choice = Choice(
        np.zeros((rows, k), np.float32), np.zeros((rows, k), np.int64), np.zeros((rows, 1), np.float32)
    )
    for name, array in choice._asdict().items():
        binding.output(name, array)
    return choice


def copy_moved(past: Floats, moves: Moves, lengths: npt.NDArray[np.int32]) -> None:
    """Let rows have the keys and values of others, but for those that they share.

    past: (inputs, rows, heads, length, head size); lengths: (rows,), what each had seen before the last step.
    """
    ends = lengths[moves.source] + 1
    for to, source, start, end in np.column_stack((*moves, ends)).tolist():
        past[:, to, :, start:end] = past[:, source, :, start:end]


def num_bytes(model: Session, kind: str, length: int) -> int:
    """What the inputs of a kind (`past.`, `cross.`) take for one row of so many tokens."""
    shapes = [shape for name, shape in model.input_shapes.items() if name.startswith(kind)]
    return sum(4 * int(shape[1]) * length * int(shape[3]) for shape in shapes)


def _take(buffers: Buffers, decoder: Session, kind: str, rows: int, length: int) -> tuple[list[str], Floats]:
    """A buffer for all inputs of a kind, (inputs, rows, heads, length, head size), and their names.

    What is masked or not yet written is still multiplied, by zero: any content will do that is finite.
    """
    names = [name for name in decoder.inputs if name.startswith(kind)]
    (shape,) = {decoder.input_shapes[name] for name in names}
    size = (len(names), rows, int(shape[1]), length, int(shape[3]))
    return names, buffers.take(kind, size, decoder.input_types[names[0]])


class GrowingCache:
    """Keys and values that the graph returns one step longer; all rows are of equal length.

    They stay on the device. A row continues the one that `parents` names, so rows move inside the graph.
    """

    refills = False
    worth_shrinking = 0.5

    def __init__(self, decoder: Session, *, room: int, num_beams: int) -> None:
        self.room = room
        self.num_slots = 0
        self._decoder = decoder
        self._num_beams = num_beams
        self._binding = decoder.bind()
        self._past = [name for name in decoder.inputs if name.startswith("past.")]
        self._present = [name.replace("past.", "present.") for name in self._past]
        self._cross: dict[str, Floats] = {}
        self._parents = np.zeros(0, np.int64)

    def grow(self, num_slots: int) -> None:
        """See CrossCache."""
        self.num_slots = num_slots

    def admit(self, slots: Sequence[int], cross: Mapping[str, Floats]) -> None:
        """See CrossCache. All slots begin together."""
        rows = len(slots) * self._num_beams
        for name in self._past:
            shape, kind = self._decoder.input_shapes[name], self._decoder.input_types[name]
            self._binding.input(name, np.zeros((rows, shape[1], 0, shape[3]), kind))  # type: ignore[arg-type]
        self._parents = np.arange(rows)
        self._bind_cross(cross)

    def step(self, tokens: Ints, lengths: Ints, num_candidates: int) -> Choice:  # noqa: ARG002
        """See Cache."""
        self._binding.input("input_ids", tokens[:, None])
        self._binding.input("parents", self._parents)
        self._binding.input("k", np.array([num_candidates]))
        outputs = self._binding.run_for(*CHOICE, *self._present)
        for name, present in zip(self._past, self._present, strict=True):
            self._binding.input(name, outputs[present])
        self._parents = np.arange(len(tokens))
        return Choice(*(outputs[name].numpy() for name in CHOICE))

    def take_over(self, moves: Moves) -> None:
        """See Cache."""
        self._parents[moves.to] = self._parents[moves.source]

    def compact(self, slots: Sequence[int]) -> None:
        """See Cache."""
        self.num_slots = len(slots)
        self._parents = self._parents.reshape(-1, self._num_beams)[slots].reshape(-1)
        self._bind_cross({name: values[slots] for name, values in self._cross.items()})

    def _bind_cross(self, cross: Mapping[str, Floats]) -> None:
        self._cross = {name: np.ascontiguousarray(values) for name, values in cross.items()}
        for name, values in self._cross.items():
            self._binding.input(name, values)
