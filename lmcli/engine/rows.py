"""`RowCache`: the keys and values of a causal model, row by row, and which tokens each row holds them of.

A prompt that begins as another row does takes that part over instead of computing it. So the examples that
all prompts of a few-shot run begin with are read once, and a prompt that continues an earlier one only reads
what is new. Taken over or computed, keys and values have the same bits: in the CPU's kernels they depend on
the tokens before them and on nothing else, but for one thing. A single token goes another way than several.
So what a step computed is never taken over, and at least two tokens of a prompt are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lmcli.engine.cache import bind_choice, copy_moved
from lmcli.engine.prefixes import Prefix
from lmcli.engine.search import Choice, Moves
from lmcli.engine.session import Binding, Session

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# What a chunk of a prompt makes inside the graph stays in a core's cache, and the integer kernel is at its
# peak.
CHUNK = 256


class RowCache:
    """Rows of one decoder run, updated in place. For one thread at a time."""

    refills = True
    worth_shrinking = 0.75

    def __init__(self, model: Session, *, num_rows: int, capacity: int) -> None:
        self._model = model
        self._names = [name for name in model.inputs if name.startswith("past.")]
        (shape,) = {model.input_shapes[name] for name in self._names}
        size = (len(self._names), num_rows, int(shape[1]), capacity, int(shape[3]))
        # Zeros, because what is not yet written is still multiplied, by zero.
        self._past = np.zeros(size, model.input_types[self._names[0]])
        self._held = np.full((num_rows, capacity), -1, np.int64)
        self._num_held = np.zeros(num_rows, np.int64)
        self.num_computed = self.num_reused = 0
        """How many tokens of prompts were computed, and how many were taken over."""
        self.num_slots, self._num_beams = num_rows, 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the most tokens of each."""
        return len(self._held), self._held.shape[1]

    def inherit(self, other: RowCache) -> None:
        """Take over the longest of the prompts that another cache holds."""
        row = int(other._num_held.argmax())
        length = min(int(other._num_held[row]), self.shape[1])
        self.restore(other._prefix(row, length))

    def restore(self, prefix: Prefix) -> None:
        """Hold a prefix in the first row, unless it is of another kind of model."""
        length = len(prefix.tokens)
        if prefix.past.shape == self._past[:, 0, :, :length].shape:
            self._past[:, 0, :, :length] = prefix.past
            self._hold(0, prefix.tokens)

    def held(self, tokens: Ints) -> Prefix:
        """The longest beginning of these tokens that a row holds, with its keys and values."""
        return self._prefix(*self._best(tokens[: self.shape[1]]))

    def _prefix(self, row: int, length: int) -> Prefix:
        return Prefix(self._held[row, :length], self._past[:, row, :, :length])

    def begin(self, num_slots: int, num_beams: int) -> None:
        """Start a decoder run with so many rows; prompts that are held stay."""
        self.num_slots, self._num_beams = num_slots, num_beams
        rows = num_slots * num_beams
        self._ids = np.zeros((rows, 1), np.int64)
        self._lengths = np.zeros(rows, np.int32)
        self._total = np.ones((), np.int32)
        self._k = np.zeros(1, np.int64)
        self._binding = binding = self._bind(0, rows)
        binding.input("input_ids", self._ids)
        binding.input("past_length", self._lengths)
        binding.input("total_length", self._total)

    def prefill(self, slot: int, tokens: Ints) -> None:
        """Have all rows of a slot hold the tokens of a prompt."""
        first = slot * self._num_beams
        start = self._take_over_prefix(first, tokens, at_most=len(tokens))
        binding = self._bind(first, 1)
        for begin, chunk in _chunks(tokens, start):
            _bind_tokens(binding, chunk, begin)
            # The output layer wants at least one token.
            _bind_outputs(binding, np.zeros(1, np.int64), np.zeros((1, 0), np.int64), k=1)
            binding.run()
        self._hold(first, tokens)
        for row in range(first + 1, first + self._num_beams):
            self._copy(first, row)

    def score(self, tokens: Ints, continuations: Sequence[Ints]) -> list[Floats]:
        """The log-probabilities of the tokens of each continuation behind a prompt. Uses the first row."""
        start = self._take_over_prefix(0, tokens, at_most=len(tokens) - 2)
        binding = self._bind(0, 1)
        firsts = np.array([[continuation[0] for continuation in continuations]], np.int64)
        for begin, chunk in _chunks(tokens, start):
            _bind_tokens(binding, chunk, begin)
            scored = _bind_outputs(binding, np.array([len(chunk) - 1]), firsts, k=1)[1]
            binding.run()
        self._hold(0, tokens)
        results = [scored[0, [index]] for index in range(len(continuations))]
        for index, continuation in enumerate(continuations):
            if len(continuation) > 1:
                _bind_tokens(binding, continuation[:-1], len(tokens))
                wanted = np.arange(len(continuation) - 1)
                rest = _bind_outputs(binding, wanted, continuation[1:, None], k=1)[1]
                binding.run()
                results[index] = np.concatenate([results[index], rest[:, 0]])
        return results

    def logits(self, tokens: Ints, vocab_size: int) -> Floats:
        """What the model thinks may follow each token, computed anew: (tokens, vocabulary)."""
        binding = self._bind(0, 1)
        _bind_tokens(binding, tokens, 0)
        # Log-probabilities of all tokens come in their order, and need not be sorted as the best ones.
        every = np.broadcast_to(np.arange(vocab_size), (len(tokens), vocab_size))
        choice, scored = _bind_outputs(binding, np.arange(len(tokens)), every, k=1)
        binding.run()
        self._hold(0, tokens)
        logits: Floats = scored + choice.log_normalizer
        return logits

    def step(self, tokens: Ints, lengths: Ints, num_candidates: int) -> Choice:
        """Run the model on one more token of each row. tokens, lengths: (rows,); a free row has length 0."""
        rows = len(self._ids)
        self._ids[:, 0] = tokens
        self._lengths[:] = lengths
        self._total[()] = lengths.max() + 1
        if num_candidates != self._k[0]:
            self._bind_choice(num_candidates)
        self._binding.run()
        self._num_held[:rows][lengths == 0] = 0  # a free row was written to
        return self._choice

    def take_over(self, moves: Moves) -> None:
        """Let rows continue what others have seen. The beams of a prompt hold the same."""
        copy_moved(self._past, moves, self._lengths)

    def compact(self, slots: Sequence[int]) -> None:
        """Keep these slots only, as 0, 1, ..."""
        beams = self._num_beams
        for to, source in enumerate(slots):  # none is needed any more where another one moves to
            if to != source:
                for beam in range(beams):
                    self._copy(source * beams + beam, to * beams + beam)
        self.begin(len(slots), beams)

    def _take_over_prefix(self, row: int, tokens: Ints, *, at_most: int) -> int:
        """Copy to a row what any row holds of the beginning of `tokens`; how many tokens that is."""
        best, length = self._best(tokens)
        if length > at_most or len(tokens) - length == 1:
            length = max(0, len(tokens) - 2)
        if best != row:
            self._past[:, row, :, :length] = self._past[:, best, :, :length]
        self.num_reused += length
        self.num_computed += len(tokens) - length
        return length

    def _best(self, tokens: Ints) -> tuple[int, int]:
        """The row that holds the longest beginning of `tokens`, and its length."""
        differs = np.ones((len(self._held), len(tokens) + 1), np.bool_)
        differs[:, :-1] = self._held[:, : len(tokens)] != tokens
        lengths = np.minimum(differs.argmax(axis=1), self._num_held)
        best = int(lengths.argmax())
        return best, int(lengths[best])

    def _copy(self, source: int, to: int) -> None:
        """Let a row hold what another one holds, and what it has seen since."""
        held = int(self._num_held[source])
        length = max(held, int(self._lengths[source]) + 1)
        self._past[:, to, :, :length] = self._past[:, source, :, :length]
        self._hold(to, self._held[source, :held])

    def _hold(self, row: int, tokens: Ints) -> None:
        self._held[row, : len(tokens)] = tokens
        self._num_held[row] = len(tokens)

    def _bind(self, first: int, num_rows: int) -> Binding:
        """Bind the buffers of some rows."""
        binding = self._model.bind()
        for name, past in zip(self._names, self._past, strict=True):
            binding.in_place(name, name.replace("past.", "present."), past[first : first + num_rows])
        return binding

    def _bind_choice(self, num_candidates: int) -> None:
        rows = len(self._ids)
        self._k[0] = num_candidates
        nothing = np.zeros((rows, 0), np.int64)
        self._choice, _ = _bind_outputs(self._binding, np.arange(rows), nothing, k=num_candidates)


def _chunks(tokens: Ints, start: int) -> Iterator[tuple[int, Ints]]:
    """The tokens from `start` on in parts, none of them a single token, and where they begin."""
    while start < len(tokens):
        size = CHUNK - (len(tokens) - start == CHUNK + 1)
        yield start, tokens[start : start + size]
        start += size


def _bind_tokens(binding: Binding, tokens: Ints, start: int) -> None:
    """Bind tokens of one row that stand at `start`."""
    binding.input("input_ids", np.ascontiguousarray(tokens)[None])
    binding.input("past_length", np.array([start], np.int32))
    binding.input("total_length", np.array(start + len(tokens), np.int32))


def _bind_outputs(binding: Binding, wanted: Ints, scored_ids: Ints, *, k: int) -> tuple[Choice, Floats]:
    """Bind outputs for the `wanted` tokens: (outputs,). scored_ids: (outputs, scored)."""
    scored = np.zeros(scored_ids.shape, np.float32)
    binding.input("wanted", wanted)
    binding.input("scored_ids", np.ascontiguousarray(scored_ids))
    binding.input("k", np.array([k]))
    binding.output("scored", scored)
    return bind_choice(binding, len(wanted), k), scored
