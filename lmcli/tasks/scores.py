"""Logits to scores, as transformers' pipelines define them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Six decimals are more than the fourth one that int8 moves, and keep a file of a million lines readable.
DECIMALS = 6


def softmax(logits: Floats) -> Floats:
    """Exp of each logit over their sum, along the last axis; shifted so that it cannot overflow."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-logit)) for each logit by itself."""
    with np.errstate(over="ignore"):  # exp of a huge number is infinite, and its reciprocal right
        scores: Floats = np.reciprocal(1 + np.exp(-logits))
    return scores


def _identity(logits: Floats) -> Floats:
    return logits


ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _identity,
}


def rounded(score: np.float32 | float) -> float:
    """A score as it is written."""
    return round(float(score), DECIMALS)
