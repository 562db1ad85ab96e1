"""`Embedder`: texts to vectors that lie close together where the texts mean similar things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lmcli.engine.encoder import Encoded, Encoder
from lmcli.engine.tokenizer import TokenizeError

Floats = npt.NDArray[np.float32]


class Embedding(NamedTuple):
    """What becomes of a text."""

    vector: Floats
    """(hidden,)."""
    num_tokens: int
    """How many the graph has read."""


class Embedder:
    """A sentence encoder: one vector for a text of any length. A context manager."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._encoder.__exit__(*exc_info)

    def submit(self, texts: Sequence[str]) -> Callable[[], Mapping[str, Embedding | TokenizeError]]:
        """Start the work on different texts; what is returned waits for it to end.

        It gives each text's embedding, or why the tokenizer refuses it.
        """
        job = self._encoder.submit(texts)
        return lambda: {
            text: Embedding(merge(found), found.num_tokens) if isinstance(found, Encoded) else found
            for text, found in job.results().items()
        }

    def embed(self, texts: Sequence[str]) -> Floats:
        """The embeddings of the texts, in order: (texts, hidden). Raises TokenizeError for one it refuses."""
        found = self.submit(list(dict.fromkeys(texts)))()
        rows = [_vector(found[text]) for text in texts]
        return np.stack(rows) if rows else np.empty((0, self._encoder.output_shape()[-1]), np.float32)


def _vector(found: Embedding | TokenizeError) -> Floats:
    if isinstance(found, TokenizeError):
        raise found
    return found.vector


def merge(encoded: Encoded) -> Floats:
    """The embedding of a text from those of its windows: (hidden,).

    It has the direction of their mean, each weighted by the number of tokens that no window before it holds,
    and their mean length: a mean of vectors of length 1 would be shorter than those of short texts.
    """
    vectors = np.stack(encoded.logits)  # (windows, hidden)
    if len(vectors) == 1:
        only: Floats = vectors[0]
        return only
    weights = encoded.weights
    mean = np.average(vectors, axis=0, weights=weights)
    length = np.average(np.linalg.norm(vectors, axis=1), weights=weights)
    merged: Floats = (mean * (length / max(np.linalg.norm(mean), 1e-12))).astype(np.float32)
    return merged
