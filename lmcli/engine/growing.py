"""`GrowingRows`: the keys and values of a causal model whose graph returns them, longer with each step.

So do plain graphs, and those for CUDA. Keys and values stay on the device: the graph takes them by the row
that each row continues (`parents`). All rows of a run are of equal length, so prompts of one length begin
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnxruntime import OrtValue

from lmcli.engine.cache import CHOICE
from lmcli.engine.encoder import equal_batches
from lmcli.engine.search import Choice, Moves
from lmcli.engine.session import Session

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Tokens that are read at once, of one row and of all: plain graphs have a number for each pair of them.
_CHUNK, _CHUNK_CUDA = 512, 2048
_BATCH_TOKENS, _BATCH_TOKENS_CUDA = 2048, 16_384
# How many continuations of a prompt are read at once.
_CONTINUATIONS = 32


class GrowingRows:
    """Rows of one decoder run. For one thread at a time; used as a `RowCache` is."""

    refills = False
    worth_shrinking = 0.5

    def __init__(self, model: Session) -> None:
        self._model = model
        self._past = [name for name in model.inputs if name.startswith("past.")]
        self._chunk = _CHUNK_CUDA if model.on_cuda else _CHUNK
        self.num_computed = self.num_reused = 0
        """How many tokens of prompts were computed, and how many were taken over: none."""
        self._parents = np.zeros(0, np.int64)
        self.begin(1, 1)

    def begin(self, num_slots: int, num_beams: int) -> None:
        """Start a decoder run with so many rows."""
        self.num_slots, self._num_beams = num_slots, num_beams
        self._prompts: list[Ints] = []
        self._empty()

    def prefill(self, slot: int, tokens: Ints) -> None:
        """Have all rows of a slot hold the tokens of a prompt. All slots read theirs with the first step."""
        assert slot == len(self._prompts), "slots begin in their order"
        self._prompts.append(tokens)

    def step(self, tokens: Ints, lengths: Ints, num_candidates: int) -> Choice:  # noqa: ARG002
        """Run the model on one more token of each row. tokens: (rows,); `lengths` are known already."""
        if self._prompts:
            self._read(np.stack(self._prompts))
            self._parents = np.repeat(self._parents, self._num_beams)
            self._prompts = []
        rows = np.arange(len(tokens))
        outputs = self._run(tokens[:, None], rows, np.zeros((len(rows), 0), np.int64), k=num_candidates)
        return Choice(*(outputs[name].numpy() for name in CHOICE))

    def take_over(self, moves: Moves) -> None:
        """Let rows continue what others have seen."""
        self._parents[moves.to] = self._parents[moves.source]

    def compact(self, slots: Sequence[int]) -> None:
        """Keep these slots only, as 0, 1, ...; before the first step those that have a prompt."""
        self.num_slots = len(slots)
        if not self._prompts:
            self._parents = self._parents.reshape(-1, self._num_beams)[slots].reshape(-1)

    def score(self, tokens: Ints, continuations: Sequence[Ints]) -> list[Floats]:
        """The log-probabilities of the tokens of each continuation behind a prompt."""
        self.begin(1, 1)
        firsts = np.array([[continuation[0] for continuation in continuations]], np.int64)
        found = self._read(tokens[None], firsts)
        results = [found[0, [index]] for index in range(len(continuations))]
        longer = [index for index, continuation in enumerate(continuations) if len(continuation) > 1]
        prompt = self._values
        for start in range(0, len(longer), _CONTINUATIONS):
            group = longer[start : start + _CONTINUATIONS]
            self._hold(prompt, np.zeros(len(group), np.int64))
            rest = self._score_rest([continuations[index] for index in group])
            for index, scores in zip(group, rest, strict=True):
                results[index] = np.concatenate([results[index], scores])
        return results

    def logits(self, tokens: Ints, vocab_size: int) -> Floats:
        """What the model thinks may follow each token, computed anew: (tokens, vocabulary)."""
        self.begin(1, 1)
        parts = []
        for chunk in _chunks(tokens[None], self._chunk):
            wanted = np.arange(chunk.size)
            # Log-probabilities of all tokens come in their order, and need not be sorted as the best ones.
            every = np.broadcast_to(np.arange(vocab_size), (chunk.size, vocab_size))
            outputs = self._run(chunk, wanted, np.ascontiguousarray(every), k=1)
            parts.append(outputs["scored"].numpy() + outputs["log_normalizer"].numpy())
        return np.concatenate(parts)

    def _score_rest(self, continuations: Sequence[Ints]) -> list[Floats]:
        """The log-probabilities of all tokens but the first. Each row continues a prompt."""
        results: list[list[Floats]] = [[] for _ in continuations]
        longest = max(map(len, continuations)) - 1
        # Fast graphs read several tokens of one row only where there is a past.
        size = self._chunk if len(continuations) == 1 else 1
        live = list(range(len(continuations)))
        for start in range(0, longest, size):
            end = min(start + size, longest)
            going_on = [row for row, index in enumerate(live) if len(continuations[index]) > start + 1]
            live, self._parents = [live[row] for row in going_on], self._parents[going_on]
            tokens = np.stack([continuations[index][start:end] for index in live])
            following = np.stack([continuations[index][start + 1 : end + 1] for index in live])
            outputs = self._run(tokens, np.arange(tokens.size), following.reshape(-1, 1), k=1)
            for index, scores in zip(live, outputs["scored"].numpy().reshape(tokens.shape), strict=True):
                results[index].append(scores)
        return [np.concatenate(parts) for parts in results]

    def _read(self, prompts: Ints, scored_ids: Ints | None = None) -> Floats:
        """Read prompts of equal length, (rows, length); the scores of what may follow: (1, scored)."""
        self._parents = np.zeros(len(prompts), np.int64)
        scored_ids = np.zeros((1, 0), np.int64) if scored_ids is None else scored_ids
        scored = np.zeros(scored_ids.shape, np.float32)
        for chunk in _chunks(prompts, self._chunk):
            # The output layer wants at least one token.
            scored = self._run(chunk, np.array([chunk.size - 1]), scored_ids, k=1)["scored"].numpy()
        self.num_computed += prompts.size
        return scored

    def _run(self, input_ids: Ints, wanted: Ints, scored_ids: Ints, *, k: int) -> dict[str, OrtValue]:
        """Read more tokens of each row: (rows, sequence). Gives all outputs but keys and values."""
        binding = self._binding
        binding.input("input_ids", np.ascontiguousarray(input_ids))
        binding.input("parents", self._parents)
        binding.input("wanted", wanted)
        binding.input("scored_ids", scored_ids)
        binding.input("k", np.array([k]))
        present = [name.replace("past.", "present.") for name in self._past]
        outputs = binding.run_for(*CHOICE, "scored", *present)
        values = {past: outputs.pop(name) for past, name in zip(self._past, present, strict=True)}
        self._hold(values, np.arange(len(input_ids)))
        return outputs

    def _empty(self) -> None:
        """One row that has seen nothing."""
        self._binding = self._model.bind()
        values = {}
        for name in self._past:
            _, heads, _, head_size = self._model.input_shapes[name]
            nothing = np.zeros((1, int(heads), 0, int(head_size)), self._model.input_types[name])
            values[name] = OrtValue.ortvalue_from_numpy(nothing)
        self._hold(values, np.zeros(1, np.int64))

    def _hold(self, values: Mapping[str, OrtValue], parents: Ints) -> None:
        """Continue these keys and values; parents: (rows,), which of their rows each row continues."""
        self._values, self._parents = values, parents
        for name, value in values.items():
            self._binding.input(name, value)


def begin_together(lengths: Sequence[int], num_slots: int, *, on_cuda: bool) -> list[list[int]]:
    """The numbers of prompts of these lengths, in batches that one run of at most `num_slots` may begin with.

    Only a prompt that stands alone is read in chunks: graphs for CUDA read no others so.
    """
    chunk, tokens = (_CHUNK_CUDA, _BATCH_TOKENS_CUDA) if on_cuda else (_CHUNK, _BATCH_TOKENS)
    batches = []
    for batch in equal_batches(lengths, tokens):
        size = num_slots if lengths[batch[0]] <= chunk else 1
        batches += [batch[start : start + size] for start in range(0, len(batch), size)]
    return batches


def _chunks(rows: Ints, size: int) -> Iterator[Ints]:
    """Rows of equal length in parts: (rows, at most `size`)."""
    for start in range(0, rows.shape[1], size):
        yield rows[:, start : start + size]
