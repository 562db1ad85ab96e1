"""`Seq2Seq`: token ids to token ids, with an encoder graph and a decoder graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lmcli.engine.generation import GenerationConfig
from lmcli.engine.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]


class Source(NamedTuple):
    """What one output is made from."""

    input_ids: Ints
    """(sequence,), with all special tokens; at most the tokenizer's `context_length`."""
    max_new_tokens: int
    """Its own limit, at most that of the configuration."""
    forced_bos_token_id: int | None = None
    """What its first token must be: a language code. None: as the configuration says."""
    decoder_start_token_id: int | None = None
    """What its decoder starts with. None: as the configuration says."""
    seed: int = 0
    """What its sampling starts from, together with the seed of the configuration."""


class Hypothesis(NamedTuple):
    """One output."""

    token_ids: list[int]
    """Without the start token, a forced first token, and the end."""
    score: float
    """The mean log-probability of its tokens: their sum, divided by the length to `length_penalty`."""
    is_complete: bool
    """Whether the model ended it, and not the limit."""


class Job(Protocol):
    """Sources on their way through a model."""

    def results(self) -> list[list[Hypothesis]]:
        """Wait for the end: `num_return_sequences` outputs for each source, the best first."""
        ...


class Seq2Seq(Protocol):
    """An encoder-decoder with its tokenizer, run by several threads. A context manager."""

    tokenizer: Tokenizer

    def submit(self, sources: Sequence[Source], config: GenerationConfig) -> Job:
        """Start the work; the threads see to it while the caller does something else."""
        ...
