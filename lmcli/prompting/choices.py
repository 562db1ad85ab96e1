"""Choices: where each begins among the tokens, and from log-probabilities of tokens to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from lmcli.engine.prefixes import common_length
from lmcli.engine.tokenizer import Ints
from lmcli.errors import UsageError

Normalize = Literal["sum", "mean", "pmi"]
Floats = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

CONTENT_FREE = ("N/A", "[MASK]", "")
"""Questions that say nothing, for calibration (Zhao et al. 2021, arXiv:2102.09690)."""


def check_choices(choices: Sequence[str]) -> None:
    """Raise UsageError unless there are at least two, all different and none empty."""
    if "" in choices:
        raise UsageError("--choices has an empty answer", hint="--choices positive,negative")
    if len(choices) < 2:
        raise UsageError("--choices needs two answers or more", hint="--choices positive,negative")
    if len(set(choices)) < len(choices):
        raise UsageError(f"--choices has {_first_twice(choices)!r} twice")


def split_choices(prompt: Ints, continued: Sequence[Ints]) -> tuple[Ints, list[Ints]]:
    """What all choices have in common with the prompt, and the rest of each.

    A tokenizer may merge the end of a prompt with what follows, so the prompt alone does not tell where a
    choice begins. continued: the tokens of the prompt with each choice behind it.
    """
    length = min(common_length(prompt, row) for row in continued)
    # A choice needs a token of its own, and the model one to start from.
    length = min(length, *(len(row) - 1 for row in continued))
    return prompt[:length], [row[length:] for row in continued]


def normalize(scores: Sequence[Floats], how: Normalize) -> Probabilities:
    """One log-probability for each choice, from those of its tokens: (choices,)."""
    return np.array([row.mean() if how == "mean" else row.sum(dtype=np.float64) for row in scores])


def probabilities(scores: Probabilities) -> Probabilities:
    """(choices,) log-probabilities, to what each is of all."""
    weights = np.exp(scores - scores.max())
    shares: Probabilities = weights / weights.sum()
    return shares


def calibrated(shares: Probabilities, content_free: Sequence[Probabilities]) -> Probabilities:
    """Each probability divided by what its choice has where nothing is asked, on average."""
    least = np.finfo(np.float64).tiny  # a probability may have underflowed
    base = np.maximum(np.mean(content_free, axis=0), least)
    return probabilities(np.log(np.maximum(shares, least)) - np.log(base))


def _first_twice(choices: Sequence[str]) -> str:
    return next(choice for number, choice in enumerate(choices) if choice in choices[:number])
