"""`Seq2Seq`: token ids to token ids, with an encoder graph and a decoder graph.

Sources are sorted by length. Encoder batches hold sources of equal length, as everywhere in lmcli. A decoder
run has slots: a source leaves when it is finished, and the next one takes its place. So the same source gives
the same output alone and in any batch.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.cache import CHOICE, Buffers, CrossCache, GrowingCache, InPlaceCache, num_bytes
from lmcli.engine.encoder import equal_batches
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.run import Job, Place, Run, Slots, by_sample, make_search
from lmcli.engine.search import Hypothesis, Search, Source
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import REBUILD, BundleError, UnavailableError

__all__ = ["Hypothesis", "Seq2Seq", "Source"]

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
# Outputs of different length have room for a multiple of these tokens, so that they may be of one run.
_CAPACITY_STEP = 32
# Fewer sources than these are not worth a second decoder run.
_MIN_SHARE = 8
# Sources are padded to one of a few lengths, the powers of two from here on, so that what a row computes
# depends on its own length only.
_SHORTEST = 16


class _Batch(NamedTuple):
    """Sources of equal length that the encoder takes together."""

    places: Sequence[Place]
    sources: Sequence[Source]


class _Queue:
    """Sources that are padded to the same length and wait for any of the threads, job after job."""

    def __init__(self, config: GenerationConfig, source_length: int, capacity: int) -> None:
        """capacity: the most new tokens of a source."""
        self.config = config
        self.source_length = source_length
        self.capacity = capacity
        self.batches: deque[_Batch] = deque()
        self.share = 0
        """How many sources one thread should have at once, so that there are some for the others."""
        self._jobs: list[Job] = []

    @property
    def is_awaited(self) -> bool:
        """Whether anyone waits for what is in it or under way."""
        return any(not job.is_over for job in self._jobs)

    def extend(self, job: Job, batches: Sequence[_Batch], num_threads: int) -> None:
        """Put the batches of a job behind those of others."""
        self._jobs = [*(job for job in self._jobs if not job.is_over), job]
        self.batches.extend(batches)
        num_waiting = sum(len(batch.sources) for batch in tuple(self.batches))  # threads take some meanwhile
        self.share = max(_MIN_SHARE, -(-num_waiting // num_threads))

    def fail(self, error: BaseException) -> None:
        """Tell all that wait."""
        self.batches.clear()
        for job in self._jobs:
            job.fail(error)


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
        self._queues: dict[tuple[GenerationConfig, int], _Queue] = {}
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
        self._queues = {key: queue for key, queue in self._queues.items() if queue.is_awaited}
        queues = [
            (self._enqueue(job, batches, source_length, config), sum(len(batch.sources) for batch in batches))
            for source_length, batches in self._by_length(job, sources).items()
        ]
        # The end of a decoder run has few rows left, so a thread stays with a queue while there is anything
        # in it, the longest first. A second one helps where it has nothing else to do; which of them takes
        # a source changes nothing.
        queues.sort(key=lambda queue: -queue[0].source_length * queue[1])
        for lane in range(self._threads):
            for queue, num_sources in queues:
                if lane * _MIN_SHARE < num_sources:
                    self._workers.submit(self._run, queue)
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
        cache.grow(len(rows))
        cache.admit(range(len(rows)), cross)
        logits = np.empty((len(rows), len(token_ids), self._vocab_size), np.float32)
        for step, token in enumerate(token_ids):
            tokens, lengths = np.full(len(rows), token), np.full(len(rows), step)
            choice = cache.step(tokens, lengths, self._vocab_size)
            np.put_along_axis(logits[:, step], choice.top_ids, choice.top_logits, axis=1)
        return logits

    def _by_length(self, job: Job, sources: Sequence[Source]) -> dict[int, list[_Batch]]:
        """Batches for the encoder, by the length that their sources are padded to."""
        found: defaultdict[int, list[_Batch]] = defaultdict(list)
        lengths = [len(source.input_ids) for source in sources]
        for numbers in equal_batches(lengths, self._encoder_tokens):
            places = [Place(job, number) for number in numbers]
            batch = _Batch(places, [sources[number] for number in numbers])
            found[_padded(lengths[numbers[0]])].append(batch)
        return found

    def _enqueue(
        self, job: Job, batches: Sequence[_Batch], source_length: int, config: GenerationConfig
    ) -> _Queue:
        """Put batches where their like wait, or may be under way already."""
        needed = max(source.max_new_tokens for batch in batches for source in batch.sources)
        queue = self._queues.get((config, source_length))
        if queue is None or queue.capacity < needed:
            capacity = -(-needed // _CAPACITY_STEP) * _CAPACITY_STEP
            queue = self._queues[config, source_length] = _Queue(config, source_length, capacity)
        queue.extend(job, batches, self._threads)
        return queue

    def _run(self, queue: _Queue) -> None:
        """What one thread does of a queue."""
        num_beams = queue.config.num_beams
        run = _Run(self._encode, queue, self._vocab_size, self._stopping)
        try:
            while run.has_more() and not self._stopping.is_set():
                room = self._room(queue.capacity, queue.source_length, num_beams)
                cache = self._make_cache(room, num_beams, queue.capacity, queue.source_length)
                run.decode(cache, make_search(queue.config, 0, queue.capacity + 1))
        except MemoryError:
            hint = "fewer --threads or --num-beams need less"
            queue.fail(UnavailableError("there is not enough memory for the decoder", hint=hint))
        except BaseException as error:  # also what Rust panics with; raised where the results are waited for
            queue.fail(error)

    def _encode(self, input_ids: Ints) -> Cross:
        """(batch, sequence) to the keys and values of cross-attention, by name."""
        return self._encoder.run({"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)})

    def _make_cache(self, room: int, num_beams: int, capacity: int, source_length: int) -> CrossCache:
        if not self._is_in_place:
            return GrowingCache(self._decoder, room=room, num_beams=num_beams)
        return InPlaceCache(
            self._decoder,
            self._buffers,
            room=room,
            num_beams=num_beams,
            capacity=capacity,
            source_length=source_length,
        )

    def _room(self, capacity: int, source_length: int, num_beams: int) -> int:
        """For how many sources at once the budgets of rows and bytes are enough."""
        size = num_bytes(self._decoder, "past.", capacity * num_beams)
        size += num_bytes(self._decoder, "cross.", source_length)
        rows = _ROWS_OF_BEAMS if num_beams > 1 else _ROWS
        rows = _ROWS_CUDA if self._decoder.on_cuda else rows
        return max(1, min(rows // num_beams, _CACHE_BYTES // size))


class _Run(Run[CrossCache]):
    """What one thread does of a queue."""

    def __init__(
        self, encode: Callable[[Ints], Cross], queue: _Queue, vocab_size: int, stopping: Event
    ) -> None:
        super().__init__(vocab_size, stopping)
        self._encode_rows = encode
        self._queue = queue
        self._ready: deque[tuple[_Batch, Cross]] = deque()

    def has_more(self) -> bool:
        """See Run."""
        return bool(self._ready or self._queue.batches)

    def fill(self, slots: Slots, cache: CrossCache, search: Search) -> None:
        """See Run."""
        free = [slot for slot, place in enumerate(slots) if place is None]
        most = min(self._queue.share, cache.room) - (len(slots) - len(free))
        while most > 0 and (self._ready or self._encode()):
            batch, cross = self._ready.popleft()
            taken, rest = batch.places[:most], slice(most, None)
            if len(taken) > len(free):
                more = range(len(slots), len(slots) + len(taken) - len(free))
                free.extend(more)
                slots.extend([None] * len(more))
                cache.grow(len(slots))
                search.grow(len(slots))
            own, free = free[: len(taken)], free[len(taken) :]
            cache.admit(own, {name: values[:most] for name, values in cross.items()})
            sources = batch.sources[:most]
            search.admit(own, sources, [self._start(source) for source in sources])
            for slot, place in zip(own, taken, strict=True):
                slots[slot] = place
            if len(batch.places) > most:
                left = _Batch(batch.places[rest], batch.sources[rest])
                self._ready.append((left, {name: values[rest] for name, values in cross.items()}))
            most -= len(taken)
            if not cache.refills:
                break  # rows that begin together are of one source length

    def _start(self, source: Source) -> Ints:
        """What the decoder reads before the first new token: (1,)."""
        own = source.decoder_start_token_id
        if own is None:
            own = self._queue.config.decoder_start_token_id
        return np.array([own], np.int64)

    def _encode(self) -> bool:
        """Have the next batch ready; whether there was one."""
        try:
            batch = self._queue.batches.popleft()
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
