"""`rotate`: the same causal model in other coordinates, in which int8 loses less.

A few channels of a language model's hidden states are tens of times larger than the others. With one scale
for a row, int8 has hardly any values left for the rest. An orthogonal matrix spreads each channel over all of
them. As it leaves lengths as they are, the root mean square norm does not notice it, so it can be multiplied
into the weights before and behind, and costs nothing at run time (QuaRot, Ashkboos et al. 2024,
arXiv:2404.00456).

Between the two halves of the feed-forward layer no rotation is free. There the scale of each channel moves
from the activation into the weights behind it (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from lmcli.export.causal import has_norms_behind
from lmcli.export.causal_shape import CausalShape
from lmcli.export.layers import Weights

Floats = npt.NDArray[np.float32]

EMBEDDING, HEAD, LAST_NORM = "model.embed_tokens", "lm_head", "model.norm"
# Behind which norm of its layer a projection stands; what it reads is rotated.
_READS: Mapping[str, str] = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
    HEAD: LAST_NORM,
}
_WRITES = ("self_attn.o_proj", "mlp.down_proj")


def rotate(weights: Weights, shape: CausalShape) -> Weights:
    """The weights of the rotated model, each made when it is asked for; as they are where it would differ.

    With a bias a norm takes the mean away, and behind a product it scales channels: neither is the same after
    a rotation.
    """
    if LAST_NORM + ".bias" in weights or has_norms_behind(weights):
        return weights
    return _Rotated(weights, shape)


def orthogonal(size: int) -> npt.NDArray[np.float64]:
    """An orthogonal matrix without large elements, (size, size): Hadamard's times a cosine transform.

    Hadamard matrices of Sylvester exist for powers of two; the odd rest is the orthonormal DCT-II.
    """
    power = size & -size
    hadamard = np.ones((1, 1))
    while len(hadamard) < power:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    odd = size // power
    row, column = np.arange(odd)[:, None], np.arange(odd)[None]
    cosines = np.cos(np.pi * (2 * column + 1) * row / (2 * odd)) * np.sqrt(2 / odd)
    cosines[0] /= np.sqrt(2)
    return np.asarray(np.kron(hadamard / np.sqrt(power), cosines))


class _Rotated(Mapping[str, Floats]):
    def __init__(self, weights: Weights, shape: CausalShape) -> None:
        self._weights = weights
        self._offset = np.float32(shape.norm_offset)
        self._rotation = orthogonal(weights[EMBEDDING + ".weight"].shape[1]).astype(np.float32)

    def __getitem__(self, name: str) -> Floats:
        is_tied = name == HEAD + ".weight" and name not in self._weights
        value = self._weights[EMBEDDING + ".weight" if is_tied else name]
        found = _IN_LAYER.fullmatch(name)
        layer, part, kind = found.groups() if found else ("", *name.rsplit(".", 1))
        if part == EMBEDDING:
            return value @ self._rotation
        if part in _NORMS:
            return np.ones_like(value) - self._offset
        if part in _READS and kind == "weight":
            value = self._behind(layer + _READS[part], value) @ self._rotation
        if part == "mlp.up_proj":
            value = (value.T / self._scales(layer)).T
        if part == "mlp.down_proj" and kind == "weight":
            value = value * self._scales(layer)
        return self._rotation.T @ value if part in _WRITES else value

    def __iter__(self) -> Iterator[str]:
        # The table of embeddings turns another way than an output layer, so they cannot be one any more.
        return iter(dict.fromkeys([*self._weights, HEAD + ".weight"]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:  # without this, asking would make the weight
        return name in self._weights or name == HEAD + ".weight"

    def _behind(self, norm: str, weight: Floats) -> Floats:
        """A projection that takes over the weights of the norm before it."""
        return weight * (self._weights[norm + ".weight"] + self._offset)

    def _scales(self, layer: str) -> Floats:
        """What each channel between the halves of the feed-forward layer is divided by: (intermediate,).

        Hidden states look alike in all directions after a rotation, so a channel is about as large as the
        rows of weights that make it, the gate's times the other's. Half of its scale moves, as in
        SmoothQuant.
        """
        norm = layer + _READS["mlp.up_proj"]
        rows = (
            np.linalg.norm(self._behind(norm, self._weights[f"{layer}mlp.{part}_proj.weight"]), axis=1)
            for part in ("gate", "up")
        )
        behind = np.linalg.norm(self._weights[layer + "mlp.down_proj.weight"], axis=0)
        logs = 0.5 * (np.log(np.prod(list(rows), axis=0) + _TINY) - np.log(behind + _TINY))
        scales: Floats = np.exp(logs - logs.mean()).astype(np.float32)
        return scales


_TINY = 1e-12
_IN_LAYER = re.compile(r"(model\.layers\.\d+\.)(.+)\.(weight|bias)")
_NORMS = frozenset({*_READS.values(), LAST_NORM})
