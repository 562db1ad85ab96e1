"""`Encoder`: texts to logits, or to embeddings. Batches hold rows of equal length, so no row is ever padded.

A padded row costs time, needs a mask, and in some architectures changes the answer. In a window of a thousand
lines there are enough rows of each length to fill batches without padding, so the same line gives the same
bits alone and in any batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.session import Session
from lmcli.engine.tokenizer import TokenizeError, Tokenizer, Window
from lmcli.errors import REBUILD, BundleError

Logits = npt.NDArray[np.float32]

# Activations of about 512 tokens stay in a core's cache, and the integer GEMM is at its peak from 64 rows
# on; a GPU wants more at once.
_BATCH_TOKENS_CPU = 512
_BATCH_TOKENS_CUDA = 16_384


class Encoded(NamedTuple):
    """A text's windows and the logits of each: (labels,), or (sequence, labels) for a token classifier.

    Of a graph that embeds, the embedding of each window: (hidden,).
    """

    windows: list[Window]
    logits: list[Logits]

    @property
    def num_tokens(self) -> int:
        """How many tokens the graph has read."""
        return sum(len(window.input_ids) for window in self.windows)

    @property
    def weights(self) -> list[int]:
        """How many tokens each window has that none before it holds; 1 for all windows where none has any."""
        counts = [int((~window.special).sum()) - window.overlap for window in self.windows]
        return counts if any(counts) else [1] * len(counts)


@dataclass(frozen=True)
class Job:
    """Texts on their way through an encoder."""

    _windows: Mapping[str, list[Window] | TokenizeError]
    _batches: Sequence[Sequence[int]]
    _logits: Sequence[Future[Logits]]

    def results(self) -> dict[str, Encoded | TokenizeError]:
        """Wait for the work to end: each text's logits, or why the tokenizer refuses it."""
        rows: dict[int, Logits] = {}
        for batch, logits in zip(self._batches, self._logits, strict=True):
            rows.update(zip(batch, logits.result(), strict=True))
        ordered = (rows[index] for index in count())
        return {
            text: Encoded(found, list(islice(ordered, len(found)))) if isinstance(found, list) else found
            for text, found in self._windows.items()
        }


class Encoder:
    """An encoder's graph with its tokenizer, run by `threads` threads. A context manager."""

    def __init__(
        self, session: Session, tokenizer: Tokenizer, *, threads: int, output: str = "logits"
    ) -> None:
        """Raises BundleError for a graph without `output`."""
        if output not in session.outputs:
            raise BundleError(f"the graph has no output `{output}`", hint=REBUILD)
        self.tokenizer = tokenizer
        self._output = output
        self._session = session
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="encoder")
        self._batch_tokens = _BATCH_TOKENS_CUDA if session.on_cuda else _BATCH_TOKENS_CPU

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session.stop()
        self._workers.shutdown(cancel_futures=True)

    def submit(self, texts: Sequence[str]) -> Job:
        """Start the work on different texts; the threads see to it while the caller does something else."""
        windows = dict(zip(texts, self.tokenizer.windows(texts), strict=True))
        rows = [row for found in windows.values() if isinstance(found, list) for row in found]
        batches = list(equal_batches([len(row.input_ids) for row in rows], self._batch_tokens))
        logits = [self._workers.submit(self._run_rows, [rows[index] for index in batch]) for batch in batches]
        return Job(windows, batches, logits)

    def encode(self, texts: Sequence[str]) -> list[Encoded | TokenizeError]:
        """Run each text through the graph: its logits, or why the tokenizer refuses it, in order."""
        results = self.submit(list(dict.fromkeys(texts))).results()
        return [results[text] for text in texts]

    def _run_rows(self, rows: Sequence[Window]) -> Logits:
        return self.run(np.stack([row.input_ids for row in rows]))

    def output_shape(self) -> tuple[int, ...]:
        """The shape of the output for one row of one token. Raises BundleError if the graph fails."""
        return self.run(np.zeros((1, 1), np.int64)).shape

    def run(self, input_ids: npt.NDArray[np.int64]) -> Logits:
        """Run one batch of rows of equal length. (batch, sequence) to (batch, ...)."""
        feeds = {
            "input_ids": input_ids,
            "attention_mask": np.ones_like(input_ids),
            "token_type_ids": np.zeros_like(input_ids),
        }
        output: Logits = self._session.run(feeds)[self._output]
        return output


def equal_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of equal length, in batches of at most `batch_tokens`; the longest first."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    for length in sorted(by_length, reverse=True):  # so that the threads end together
        rows = by_length[length]
        size = max(1, batch_tokens // max(1, length))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
