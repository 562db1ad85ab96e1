"""`Blocks`: the quantization that a GGUF file has, as ONNX Runtime's MatMulNBits takes it.

Nothing is rounded again: the values that a model was published with are those that lmcli multiplies with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A matrix (N, K) in blocks of 32 columns: weight = scale * (value - zero) + minimum.

    zero is MatMulNBits' own, half of the range, where there are no minimums, and 0 where there are.
    """

    bits: int
    """4 or 8."""
    values: Bytes
    """(N, K / 32, 4 * bits), of 4 bits two in a byte: the even column in its low half."""
    scales: Floats
    """(N, K / 32)"""
    minimums: Floats | None = None
    """(N, K / 32)"""
    block_size: int = BLOCK_SIZE

    @property
    def offsets(self) -> Floats | None:
        """(N, K / 32): what the weights of a block have beyond scale * (value - MatMulNBits' own zero).

        So x @ weight.T = MatMulNBits(x) + (sums of x over each block) @ offsets.T. With zero points of floats
        MatMulNBits unpacks all weights at each call: one row of x by (1536, 576) took 1,100 µs, this 19.
        """
        return None if self.minimums is None else self.minimums + self._middle * self.scales

    def dequantize(self) -> Floats:
        """The weights (N, K), to the bit as the `gguf` package has them."""
        values = self.values
        if self.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1).reshape(*self.scales.shape, BLOCK_SIZE)
        zero = 0 if self.minimums is not None else self._middle
        weights = self.scales[..., None] * (values.astype(np.float32) - np.float32(zero))
        if self.minimums is not None:
            weights += self.minimums[..., None]
        return weights.reshape(len(weights), -1)

    @property
    def _middle(self) -> np.float32:
        return np.float32(1 << (self.bits - 1))


def keep_blocks(rows: Bytes, kind: Kind) -> Blocks | None:
    """The blocks of a matrix as GGUF has it, (N, bytes of a row); None where MatMulNBits has no such."""
    if kind not in _READERS:
        return None
    size, read = _READERS[kind]
    return read(rows.reshape(len(rows), -1, size))


# The structs block_q4_0, block_q4_1 and block_q8_0 of ggml-common.h; blocks: (N, K / 32, bytes of one).


def _q4_0(blocks: Bytes) -> Blocks:
    return Blocks(bits=4, scales=_half(blocks, 0), values=_in_pairs(blocks[..., 2:]))


def _q4_1(blocks: Bytes) -> Blocks:
    scales, minimums, values = _half(blocks, 0), _half(blocks, 2), _in_pairs(blocks[..., 4:])
    # A block of equal weights has the scale 0, for which there is no zero point. It is 1 * weight as well.
    flat = scales == 0
    values[flat] = 0x11
    return Blocks(
        bits=4,
        scales=np.where(flat, minimums, scales),
        values=values,
        minimums=np.where(flat, np.float32(0), minimums),
    )


def _q8_0(blocks: Bytes) -> Blocks:
    return Blocks(bits=8, scales=_half(blocks, 0), values=blocks[..., 2:] ^ np.uint8(128))  # int8 + 128


_READERS: Mapping[Kind, tuple[int, Callable[[Bytes], Blocks]]] = {
    Kind.Q4_0: (18, _q4_0),
    Kind.Q4_1: (20, _q4_1),
    Kind.Q8_0: (34, _q8_0),
}


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at a place of each block. (N, K / 32)"""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0].astype(np.float32)


def _in_pairs(packed: Bytes) -> Bytes:
    """Bytes of columns 2j and 2j + 1, from those of columns j and j + 16. (N, K / 32, 16)"""
    columns = np.concatenate([packed & 15, packed >> 4], axis=-1)
    pairs: Bytes = columns[..., 0::2] | columns[..., 1::2] << 4
    return pairs
