"""`Seq2Seq`: token ids to token ids, with an encoder graph and a decoder graph.

Sources are sorted by length. Encoder batches hold sources of equal length, as everywhere in lmcli. A decoder
run has slots: a source leaves when it is finished, and the next one takes its place. So the same source gives
the same output alone and in any batch.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.cache import CHOICE, Buffers, CrossCache, GrowingCache, InPlaceCache, num_bytes
from lmcli.engine.encoder import equal_batches
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.run import Run, Slots
from lmcli.engine.search import Hypothesis, Search, Source, by_sample, make_search
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import REBUILD, BundleError, UnavailableError

__all__ = ["Hypothesis", "Job", "Seq2Seq", "Source"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Cross = dict[str, npt.NDArray[np.floating]]

# The activations of about 32 rows stay in a core's cache; four times as many are worth it for beams, whose
# bookkeeping costs the same for few sources as for many.
_ROWS = 32
_ROWS_OF_BEAMS = 128
_ROWS_CUDA = 512
_ENCODER_TOKENS = 256
_ENCODER_TOKENS_CUDA = 16_384
# What the keys and values of one decoder run may take.
_CACHE_BYTES = 256 * 2**20
# Sources are padded to one of a few lengths, the powers of two from here on, so that what a row computes
# depends on its own length only.
_SHORTEST = 16


class _Batch(NamedTuple):
    """Sources of equal length that the encoder takes together: their numbers in the job."""

    numbers: Sequence[int]
    sources: Sequence[Source]


@dataclass(frozen=True)
class _Group:
    """Batches of sources that are padded to the same length, and what a decoder run of them must hold."""

    batches: deque[_Batch]
    num_sources: int
    source_length: int
    capacity: int
    """The most new tokens of a source."""

    @property
    def work(self) -> int:
        """How long it takes, in no special unit."""
        return self.num_sources * self.source_length


class Job:
    """Sources on their way through a model."""

    def __init__(self, num_sources: int, num_each: int) -> None:
        self.outputs: list[list[Hypothesis]] = [[] for _ in range(num_sources)]
        self.runs: list[Future[None]] = []
        self._num_each = num_each

    def results(self) -> list[list[Hypothesis]]:
        """Wait for the end: `num_return_sequences` outputs for each source, the best first."""
        for run in self.runs:
            run.result()
        each = self._num_each  # samples of one source are sources of their own
        return [
            sorted(
                (found for group in self.outputs[start : start + each] for found in group),
                key=lambda hypothesis: -hypothesis.score,
            )
            for start in range(0, len(self.outputs), each)
        ]


class Seq2Seq:
    """An encoder-decoder with its tokenizer, run by `threads` threads. A context manager."""

    def __init__(
        self, encoder: Session, decoder: Session, tokenizer: Tokenizer, *, vocab_size: int, threads: int
    ) -> None:
        """Raises BundleError for graphs that do not fit each other."""
        _check_graphs(encoder, decoder)
        self.tokenizer = tokenizer
        self._encoder = encoder
        self._decoder = decoder
        self._vocab_size = vocab_size
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="seq2seq")
        self._stopping = Event()
        self._encoder_tokens = _ENCODER_TOKENS_CUDA if encoder.on_cuda else _ENCODER_TOKENS
        self._buffers = Buffers()
        self._is_in_place = "past_length" in decoder.inputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()  # nobody waits for results any more
        for session in (self._encoder, self._decoder):
            session.stop()
        self._workers.shutdown(cancel_futures=True)

    def submit(self, sources: Sequence[Source], config: GenerationConfig) -> Job:
        """Start the work; the threads see to it while the caller does something else."""
        sources, config, num_each = by_sample(sources, config, self._vocab_size)
        job = Job(len(sources), num_each)
        groups = sorted(self._groups(sources), key=lambda group: -group.work)
        # The end of a decoder run has few rows left, so a group is one run, the largest first. A second one
        # helps where a thread has nothing else to do; which of them takes a source changes nothing.
        for lane in range(self._threads):
            for group in groups:
                if lane * _MIN_SHARE < group.num_sources:
                    job.runs.append(self._workers.submit(self._run, group, config, job.outputs))
        return job

    def generate(self, sources: Sequence[Source], config: GenerationConfig) -> list[list[Hypothesis]]:
        """Run each source through the model: its outputs, the best first."""
        return self.submit(sources, config).results()

    def logits(self, rows: Sequence[Ints], token_ids: Sequence[int]) -> Floats:
        """What the model thinks of given tokens: rows of equal length to (rows, tokens, vocabulary).

        token_ids: what the decoder reads, its start token first.
        """
        cross = self._encode(np.stack(rows))
        cache = self._make_cache(len(rows), 1, len(token_ids), _padded(len(rows[0])))
        cache.admit(range(len(rows)), cross)
        logits = np.empty((len(rows), len(token_ids), self._vocab_size), np.float32)
        for step, token in enumerate(token_ids):
            tokens, lengths = np.full(len(rows), token), np.full(len(rows), step)
            choice = cache.step(tokens, lengths, self._vocab_size)
            np.put_along_axis(logits[:, step], choice.top_ids, choice.top_logits, axis=1)
        return logits

    def _groups(self, sources: Sequence[Source]) -> Iterator[_Group]:
        """Sources by the length that they are padded to."""
        groups: defaultdict[int, list[_Batch]] = defaultdict(list)
        lengths = [len(source.input_ids) for source in sources]
        for numbers in equal_batches(lengths, self._encoder_tokens):
            batch = _Batch(numbers, [sources[number] for number in numbers])
            groups[_padded(lengths[numbers[0]])].append(batch)
        for source_length, batches in groups.items():
            members = [source for batch in batches for source in batch.sources]
            capacity = max(source.max_new_tokens for source in members)
            yield _Group(deque(batches), len(members), source_length, capacity)

    def _run(self, group: _Group, config: GenerationConfig, outputs: list[list[Hypothesis]]) -> None:
        """What one thread does of a group. Raises UnavailableError when memory is short."""
        share = max(_MIN_SHARE, -(-group.num_sources // self._threads))
        num_slots = min(self._num_slots(group, config.num_beams), share)
        run = _Run(self._encode, group, config, outputs, self._vocab_size, self._stopping)
        try:
            while run.has_more() and not self._stopping.is_set():
                cache = self._make_cache(num_slots, config.num_beams, group.capacity, group.source_length)
                search = make_search(config, num_slots, group.capacity + 1)
                run.decode(cache, search)
        except MemoryError as error:
            raise UnavailableError(
                "there is not enough memory for the decoder", hint="fewer --threads or --num-beams need less"
            ) from error

    def _encode(self, input_ids: Ints) -> Cross:
        """(batch, sequence) to the keys and values of cross-attention, by name."""
        return self._encoder.run({"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)})

    def _make_cache(self, num_slots: int, num_beams: int, capacity: int, source_length: int) -> CrossCache:
        if not self._is_in_place:
            return GrowingCache(self._decoder, num_slots=num_slots, num_beams=num_beams)
        return InPlaceCache(
            self._decoder,
            self._buffers,
            num_slots=num_slots,
            num_beams=num_beams,
            capacity=capacity,
            source_length=source_length,
        )

    def _num_slots(self, group: _Group, num_beams: int) -> int:
        """For how many sources at once the budgets of rows and bytes are enough."""
        size = num_bytes(self._decoder, "past.", group.capacity * num_beams)
        size += num_bytes(self._decoder, "cross.", group.source_length)
        rows = _ROWS_OF_BEAMS if num_beams > 1 else _ROWS
        rows = _ROWS_CUDA if self._decoder.on_cuda else rows
        return max(1, min(rows // num_beams, _CACHE_BYTES // size))


# Fewer sources than these are not worth a second decoder run.
_MIN_SHARE = 8


class _Run(Run[CrossCache]):
    """What one thread does of a group."""

    def __init__(
        self,
        encode: Callable[[Ints], Cross],
        group: _Group,
        config: GenerationConfig,
        outputs: list[list[Hypothesis]],
        vocab_size: int,
        stopping: Event,
    ) -> None:
        super().__init__(outputs, vocab_size, stopping)
        self._encode_rows = encode
        self._group = group
        self._config = config
        self._ready: deque[tuple[_Batch, Cross]] = deque()

    def has_more(self) -> bool:
        """Whether any source still waits."""
        return bool(self._ready or self._group.batches)

    def fill(self, slots: Slots, cache: CrossCache, search: Search) -> None:
        """See Run."""
        free = [slot for slot, number in enumerate(slots) if number is None]
        while free and (self._ready or self._encode()):
            batch, cross = self._ready.popleft()
            part, rest = slice(0, len(free)), slice(len(free), None)
            taken = free[: len(batch.numbers)]
            cache.admit(taken, {name: values[part] for name, values in cross.items()})
            search.admit(taken, batch.sources[part], [self._start(source) for source in batch.sources[part]])
            for slot, number in zip(taken, batch.numbers[part], strict=True):
                slots[slot] = number
            if len(batch.numbers) > len(free):
                left = _Batch(batch.numbers[rest], batch.sources[rest])
                self._ready.append((left, {name: values[rest] for name, values in cross.items()}))
            free = free[len(taken) :]
            if not cache.refills:
                break  # rows that begin together are of one source length

    def _start(self, source: Source) -> Ints:
        """What the decoder reads before the first new token: (1,)."""
        own = source.decoder_start_token_id
        return np.array([self._config.decoder_start_token_id if own is None else own], np.int64)

    def _encode(self) -> bool:
        """Have the next batch ready; whether there was one."""
        try:
            batch = self._group.batches.popleft()
        except IndexError:
            return False
        input_ids = np.stack([source.input_ids for source in batch.sources])
        self._ready.append((batch, self._encode_rows(input_ids)))
        return True


def _padded(length: int) -> int:
    """The length that a source of `length` tokens is padded to."""
    return max(_SHORTEST, 1 << (length - 1).bit_length())


def _check_graphs(encoder: Session, decoder: Session) -> None:
    cross = sorted(name for name in decoder.inputs if name.startswith("cross."))
    missing = [name for name in CHOICE if name not in decoder.outputs]
    if missing or not cross or sorted(encoder.outputs) != cross:
        raise BundleError("the graphs of encoder and decoder do not fit each other", hint=REBUILD)
