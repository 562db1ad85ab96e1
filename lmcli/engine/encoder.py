"""`Encoder`: texts to logits. Batches hold rows of equal length, so no row is ever padded.

A padded row costs time, needs a mask, and in some architectures changes the answer. In a window of a thousand
lines there are enough rows of each length to fill batches without padding, so the same line gives the same
bits alone and in any batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.session import Session
from lmcli.engine.tokenizer import TokenizeError, Tokenizer, Window

Logits = npt.NDArray[np.float32]

# Activations of about 512 tokens stay in a core's cache, and the integer GEMM is at its peak from 64 rows
# on; a GPU wants more at once.
_BATCH_TOKENS_CPU = 512
_BATCH_TOKENS_CUDA = 16_384


class Encoded(NamedTuple):
    """A text's windows and the logits of each: (labels,), or (sequence, labels) for a token classifier."""

    windows: list[Window]
    logits: list[Logits]


class Encoder:
    """A classification graph with its tokenizer, run by `threads` threads. A context manager."""

    def __init__(self, session: Session, tokenizer: Tokenizer, *, threads: int) -> None:
        self.tokenizer = tokenizer
        self._session = session
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="encoder")
        self._batch_tokens = _BATCH_TOKENS_CUDA if session.on_cuda else _BATCH_TOKENS_CPU

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._workers.shutdown(cancel_futures=True)

    def encode(self, texts: Sequence[str]) -> list[Encoded | TokenizeError]:
        """Run each text through the graph: its logits, or why the tokenizer refuses it, in order."""
        results = self.tokenizer.windows(texts)
        windows = [window for result in results if isinstance(result, list) for window in result]
        logits: list[Any] = [None] * len(windows)
        batches = list(_batches([len(window.input_ids) for window in windows], self._batch_tokens))
        for batch, rows in zip(batches, self._workers.map(self._run, _stacks(windows, batches)), strict=True):
            for index, row in zip(batch, rows, strict=True):
                logits[index] = row
        remaining = iter(logits)
        return [
            Encoded(result, [next(remaining) for _ in result]) if isinstance(result, list) else result
            for result in results
        ]

    def _run(self, input_ids: npt.NDArray[np.int64]) -> Logits:
        """(batch, sequence) to (batch, ...)."""
        feeds = {
            "input_ids": input_ids,
            "attention_mask": np.ones_like(input_ids),
            "token_type_ids": np.zeros_like(input_ids),
        }
        logits: Logits = self._session.run(feeds)["logits"]
        return logits


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of equal length, in batches of at most `batch_tokens`; the longest first."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    for length in sorted(by_length, reverse=True):  # so that the threads end together
        rows = by_length[length]
        size = max(1, batch_tokens // max(1, length))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _stacks(windows: Sequence[Window], batches: Sequence[list[int]]) -> Iterator[npt.NDArray[np.int64]]:
    for batch in batches:
        yield np.stack([windows[index].input_ids for index in batch])
