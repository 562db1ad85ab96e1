"""`Rotation`: rotary positions (RoFormer, Su et al. 2021, arXiv:2104.09864), scaled as configured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class Rotation(NamedTuple):
    """How far pairs of a head's first channels turn from one position to the next."""

    frequencies: tuple[float, ...]
    """Of each pair, in radians per token."""
    factor: float = 1.0
    """What cosines and sines are multiplied with."""

    def tables(self, length: int) -> tuple[Floats, Floats]:
        """Cosines and sines of each position, (length, pairs)."""
        # In float32 as in transformers: at position 8,000 the rounding of the angle is that of the model.
        angles = np.arange(length, dtype=np.float32)[:, None] * np.array(self.frequencies, np.float32)
        factor = np.float32(self.factor)
        return np.cos(angles) * factor, np.sin(angles) * factor


def read_rotation(
    theta: float, size: int, scaling: Mapping[str, Any] | None, max_positions: int
) -> Rotation | None:
    """The rotation of `size` channels; None where it is scaled in an unknown way.

    scaling: `rope_scaling` of the configuration. Raises KeyError where it lacks something.
    """
    plain = theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    scaling = scaling or {}
    match scaling.get("rope_type") or scaling.get("type") or "default":
        case "default":
            return _rotation(plain)
        case "linear":
            return _rotation(plain / float(scaling["factor"]))
        case "llama3":
            return _rotation(_llama3(plain, scaling))
        case "yarn":
            return _yarn(plain, theta, scaling, max_positions)
    return None


def _rotation(frequencies: Doubles, factor: float = 1.0) -> Rotation:
    return Rotation(tuple(frequencies.tolist()), factor)


def _llama3(plain: Doubles, scaling: Mapping[str, Any]) -> Doubles:
    """Llama 3.1: waves longer than the context of the training are stretched, short ones stay as they are."""
    factor, context = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = context * plain / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(share * plain + (1 - share) * plain / factor)


def _yarn(plain: Doubles, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotation:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), with the defaults and the rounding of transformers."""
    factor, size = float(scaling["factor"]), 2 * len(plain)
    context = float(scaling.get("original_max_position_embeddings") or max_positions)

    def channel(turns: float) -> float:
        """The channel that turns so many times in the context of the training."""
        return size * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(scaling.get("beta_fast") or 32), channel(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    stretched = np.clip((np.arange(len(plain)) - low) / (high - low), 0, 1)
    frequencies = (1 - stretched) * plain + stretched * plain / factor
    attention = scaling.get("attention_factor")
    if attention is None:
        scale, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
        given = (scale, all_dims) if scale and all_dims else (1, 0)
        attention = _magnitude(factor, given[0]) / _magnitude(factor, given[1])
    return _rotation(frequencies, float(attention))


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
