"""`Causal`: prompts to outputs, or to the likelihood of given ones, with a causal language model.

Each thread has rows of its own and takes prompts from one queue, those that begin alike one after the other,
so that each reads only what the ones before it did not. An output depends on its prompt alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.cache import CHOICE, num_bytes
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.growing import GrowingRows, begin_together
from lmcli.engine.prefixes import PrefixStore, common_length
from lmcli.engine.rows import RowCache
from lmcli.engine.run import Job, Place, Run, Slots, by_sample, make_search
from lmcli.engine.search import Hypothesis, Listen, Search, Source
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import REBUILD, BundleError, UnavailableError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = RowCache | GrowingRows

# More rows than these make a step longer, but hardly more tokens a second.
_ROWS, _ROWS_CUDA = 32, 256
# What the keys and values of all threads' rows may take.
_CACHE_BYTES, _CACHE_BYTES_CUDA = 256 * 2**20, 2 * 2**30
# Rows have room for a multiple of these tokens, so that they rarely need to be made anew.
_CAPACITY_STEP = 64


@dataclass(frozen=True)
class _Work:
    """Prompts to be continued, and what is needed for it."""

    batches: deque[list[int]]
    """The numbers of those that begin together."""
    sources: Sequence[Source]
    config: GenerationConfig
    job: Job
    listen: Listen | None
    num_slots: int
    """How many there may be in one run."""
    capacity: int
    """The most tokens of a prompt and its output."""


class Causal:
    """A causal language model with its tokenizer, run by `threads` threads. A context manager."""

    def __init__(
        self,
        model: Session,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        threads: int,
        prefixes: PrefixStore | None = None,
    ) -> None:
        """`prefixes` has what earlier runs have read. Raises BundleError for a graph of another kind."""
        _check_graph(model)
        self.tokenizer = tokenizer
        self.context_length = tokenizer.context_length
        self._model = model
        self._vocab_size = vocab_size
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="causal")
        self._stopping = Event()
        self._is_in_place = "past_length" in model.inputs
        self._all_caches: list[Rows] = [
            RowCache(model, num_rows=1, capacity=_CAPACITY_STEP) if self._is_in_place else GrowingRows(model)
            for _ in range(threads)
        ]
        self._caches: SimpleQueue[Rows] = SimpleQueue()
        for cache in self._all_caches:
            self._caches.put(cache)
        self._prefixes = prefixes if self._is_in_place else None
        self._common: Ints | None = None
        """What all prompts so far begin with."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()  # nobody waits for results any more
        self._model.stop()
        self._workers.shutdown(cancel_futures=True)
        self._save_prefix()

    @property
    def num_tokens(self) -> tuple[int, int]:
        """How many tokens of prompts were computed so far, and how many were taken over from others."""
        return (
            sum(cache.num_computed for cache in self._all_caches),
            sum(cache.num_reused for cache in self._all_caches),
        )

    def submit(
        self, sources: Sequence[Source], config: GenerationConfig, *, listen: Listen | None = None
    ) -> Job:
        """Start to continue each prompt; the threads see to it while the caller does something else.

        A prompt and its new tokens must fit into `context_length`.
        """
        sources, config, num_each = by_sample(sources, config, self._vocab_size)
        job = Job(len(sources), num_each)
        needed = max((len(source.input_ids) + source.max_new_tokens for source in sources), default=1)
        assert needed <= self.context_length, "the caller sees to it that prompts fit"
        share = -(-len(sources) // self._threads)
        num_slots = min(self._num_slots(needed, config.num_beams), share)
        batches = self._batches([source.input_ids for source in sources], num_slots)
        work = _Work(batches, sources, config, job, listen, num_slots, needed)
        for _ in range(min(self._threads, len(sources))):
            self._workers.submit(self._continue, work)
        return job

    def generate(
        self, sources: Sequence[Source], config: GenerationConfig, *, listen: Listen | None = None
    ) -> list[list[Hypothesis]]:
        """Continue each prompt: its outputs, the best first."""
        return self.submit(sources, config, listen=listen).results()

    def submit_scores(self, prompts: Sequence[Ints], continuations: Sequence[Sequence[Ints]]) -> Scoring:
        """Start to find how likely given continuations of each prompt are, at least one token each."""
        scores: list[list[Floats]] = [[] for _ in prompts]
        longest = max(
            (
                len(prompt) + max(map(len, given))
                for prompt, given in zip(prompts, continuations, strict=True)
            ),
            default=0,
        )
        assert longest <= self.context_length + 1, "the caller sees to it that prompts fit"
        queue = deque(self._begin(prompts))

        def score() -> None:
            with self._cache(1, longest) as cache:
                while queue and not self._stopping.is_set():
                    try:
                        number = queue.popleft()
                    except IndexError:
                        return
                    scores[number] = cache.score(prompts[number], continuations[number])

        return Scoring(scores, [self._workers.submit(score) for _ in range(min(self._threads, len(prompts)))])

    def score(self, prompts: Sequence[Ints], continuations: Sequence[Sequence[Ints]]) -> list[list[Floats]]:
        """The log-probabilities of the tokens of each continuation of each prompt, (tokens,) each."""
        return self.submit_scores(prompts, continuations).results()

    def logits(self, tokens: Ints) -> Floats:
        """What the model thinks may follow each token of a row, computed at once: (tokens, vocabulary)."""
        with self._cache(1, len(tokens)) as cache:
            return cache.logits(tokens, self._vocab_size)

    def _batches(self, prompts: Sequence[Ints], num_slots: int) -> deque[list[int]]:
        """The numbers of prompts in the order that they are to be read in, those together that must be."""
        if self._is_in_place:
            return deque([number] for number in self._begin(prompts))
        return deque(begin_together(list(map(len, prompts)), num_slots, on_cuda=self._model.on_cuda))

    def _begin(self, prompts: Sequence[Ints]) -> list[int]:
        """Make ready what the prompts begin with; their numbers in the order that they are to be read in."""
        order = _in_order(prompts)
        if self._prefixes is not None and prompts:
            first, last = prompts[order[0]], prompts[order[-1]]  # those that differ the soonest
            if self._common is None and (found := self._prefixes.find(first)) is not None:
                for _ in range(self._threads):
                    with self._cache(1, len(found.tokens)) as cache:
                        assert isinstance(cache, RowCache)
                        cache.restore(found)
            common = first[: common_length(first, last)]
            self._common = common if self._common is None else common[: common_length(common, self._common)]
        return order

    def _save_prefix(self) -> None:
        if self._prefixes is not None and self._common is not None:
            caches = (cache for cache in self._all_caches if isinstance(cache, RowCache))
            held = [cache.held(self._common) for cache in caches]
            self._prefixes.save(max(held, key=lambda prefix: len(prefix.tokens)))

    @contextmanager
    def _cache(self, num_rows: int, capacity: int) -> Iterator[Rows]:
        """The rows of one thread, made larger if need be. Raises UnavailableError without memory."""
        cache = self._caches.get()
        place = self._all_caches.index(cache)
        try:
            if isinstance(cache, RowCache) and (num_rows > cache.shape[0] or capacity > cache.shape[1]):
                capacity = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
                larger = RowCache(self._model, num_rows=num_rows, capacity=capacity)
                larger.inherit(cache)
                self._all_caches[place] = cache = larger
            yield cache
        except MemoryError as error:
            raise UnavailableError(
                "there is not enough memory for keys and values",
                hint="fewer --threads, shorter prompts or a lower --max-new-tokens need less",
            ) from error
        finally:
            self._caches.put(cache)

    def _continue(self, work: _Work) -> None:
        """What one thread does of the work."""
        num_slots, beams = work.num_slots, work.config.num_beams
        run = _Run(work, self._vocab_size, self._stopping, self.tokenizer)
        try:
            with self._cache(num_slots * beams, work.capacity) as cache:
                while run.has_more() and not self._stopping.is_set():
                    cache.begin(num_slots, beams)
                    run.decode(cache, make_search(work.config, num_slots, work.capacity))
        except BaseException as error:  # also what Rust panics with; raised where the results are waited for
            work.job.fail(error)

    def _num_slots(self, capacity: int, num_beams: int) -> int:
        """For how many prompts at once the budgets of rows and bytes are enough."""
        rows, budget = (_ROWS_CUDA, _CACHE_BYTES_CUDA) if self._model.on_cuda else (_ROWS, _CACHE_BYTES)
        return max(
            1, min(rows, budget // self._threads // num_bytes(self._model, "past.", capacity)) // num_beams
        )


class Scoring:
    """Prompts on their way to the likelihood of their continuations."""

    def __init__(self, scores: list[list[Floats]], runs: Sequence[Future[None]]) -> None:
        self._scores = scores
        self._runs = runs

    def results(self) -> list[list[Floats]]:
        """Wait for the end: the log-probabilities of the tokens of each continuation of each prompt."""
        for run in self._runs:
            run.result()
        return self._scores


class _Run(Run[Rows]):
    """What one thread does of the work."""

    def __init__(self, work: _Work, vocab_size: int, stopping: Event, tokenizer: Tokenizer) -> None:
        super().__init__(vocab_size, stopping)
        self._work = work
        self._tokenizer = tokenizer

    def has_more(self) -> bool:
        """See Run."""
        return bool(self._work.batches)

    def fill(self, slots: Slots, cache: Rows, search: Search) -> None:
        """See Run. The last token of a prompt is left to the first step."""
        free = deque(slot for slot, place in enumerate(slots) if place is None)
        while free:
            try:
                batch = self._work.batches.popleft()
            except IndexError:
                return
            for number in batch:
                slot, source = free.popleft(), self._work.sources[number]
                cache.prefill(slot, source.input_ids[:-1])
                search.admit([slot], [source], [source.input_ids])
                slots[slot] = Place(self._work.job, number)
            if not cache.refills:
                return

    def watch(self, slots: Slots, search: Search) -> None:
        """Tell of new tokens, and end what a stop string ends."""
        config, listen = self._work.config, self._work.listen
        if config.num_beams > 1 or (listen is None and not config.stop_strings):
            return
        tokens, finished = search.tokens().tolist(), search.finished()
        stopped = []
        for slot, place in enumerate(slots):
            if place is None or tokens[slot] in config.eos_token_ids:
                continue
            if listen is not None:
                listen(place.number, tokens[slot])
            may_stop = config.stop_strings and slot not in finished
            if may_stop and self._holds_stop(search.result(slot)[0].token_ids):
                stopped.append(slot)
        if stopped:
            search.stop(stopped)

    def _holds_stop(self, token_ids: Sequence[int]) -> bool:
        """Whether a stop string is complete. A string of n bytes ends within the last n tokens."""
        stops = self._work.config.stop_strings
        longest = max(len(stop.encode()) for stop in stops)
        [text] = self._tokenizer.decode([token_ids[-longest - 4 :]])
        return any(stop in text for stop in stops)


def _in_order(rows: Sequence[Ints]) -> list[int]:
    """The numbers of rows of token ids, so that those that begin alike stand together."""
    keys = [row.astype(">u4").tobytes() for row in rows]
    return sorted(range(len(rows)), key=keys.__getitem__)


def _check_graph(model: Session) -> None:
    missing = [name for name in (*CHOICE, "scored") if name not in model.outputs]
    if missing or not {"past_length", "parents"} & set(model.inputs):
        raise BundleError("the graph is no causal language model", hint=REBUILD)
