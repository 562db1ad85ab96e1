"""`BlockLayers`: the parts of a graph whose weights are in blocks with a scale of their own.

Those of a GGUF file stay as they are, bit for bit; others become blocks of 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from onnx import TensorProto

from lmcli.export.gguf_blocks import BLOCK_SIZE, Blocks, keep_blocks
from lmcli.export.graph import MICROSOFT
from lmcli.export.layers import Layers, Weights

Floats = npt.NDArray[np.float32]

_INT8_ACTIVATIONS = 4
"""MatMulNBits' `accuracy_level`: blocks of the activations are int8 with a scale of their own."""


class BlockLayers(Layers):
    """Layers whose products are MatMulNBits: with the blocks of the file, else with blocks of 8 bits."""

    def __init__(self, weights: Weights, blocks: Callable[[str], Blocks | None] = lambda _: None) -> None:
        """`blocks` gives those of a file by the name of the weight."""
        super().__init__(weights)
        self._own = blocks

    def embed(self, ids: str, name: str) -> str:
        """The rows of a table: values of 8 bits, scaled by block."""
        own = self._own(name)
        blocks = own if own and own.bits == 8 else quantized(self.weights[name])
        if blocks is None:
            return super().embed(ids, name)
        graph = self.graph
        values, scales = self._constants(name.removesuffix(".weight"), [blocks])
        picked = graph.op("Cast", graph.op("Gather", values, ids), to=TensorProto.FLOAT)
        centred = graph.op(
            "Sub", picked, graph.constant(np.array(128, np.float32))
        )  # (tokens, blocks, block size)
        factors = graph.op("Unsqueeze", graph.op("Gather", scales, ids), graph.constant([2]))
        size = blocks.scales.shape[1] * blocks.block_size
        return graph.op("Reshape", graph.op("Mul", centred, factors), graph.constant([-1, size]))

    def linear(self, x: str, *names: str, output: str = "") -> str:
        """The linear layers `names` side by side: in one product if their blocks are alike."""
        blocks = [self._blocks(name + ".weight") for name in names]
        kinds = {each and (each.bits, each.offsets is None) for each in blocks}
        if len(kinds) > 1:
            parts = [self.linear(x, name) for name in names]
            return self.graph.op("Concat", *parts, axis=-1, output=output)
        if None in kinds:
            return super().linear(x, *names, output=output)
        product = self._product(x, names[0], [each for each in blocks if each is not None])
        biases = [self.weights[name + ".bias"] for name in names if name + ".bias" in self.weights]
        if not biases:
            return product
        return self.graph.op("Add", product, self.graph.constant(np.concatenate(biases)), output=output)

    def _blocks(self, name: str) -> Blocks | None:
        return self._own(name) or quantized(self.weights[name])

    def _constants(self, name: str, blocks: Sequence[Blocks]) -> tuple[str, str]:
        """Values and scales, by name: a table that is the output layer, too, is there once.

        Unless the file has it in 4 bits, which are not what `embed` reads.
        """
        name = f"{name}_{blocks[0].bits}_bits"
        return (
            self.graph.constant(np.concatenate([each.values for each in blocks]), name + "_blocks"),
            self.graph.constant(np.concatenate([each.scales for each in blocks]), name + "_scales"),
        )

    def _product(self, x: str, name: str, blocks: Sequence[Blocks]) -> str:
        graph, size = self.graph, blocks[0].block_size
        columns, num_blocks = sum(len(each.scales) for each in blocks), blocks[0].scales.shape[1]
        product = graph.op(
            "MatMulNBits",
            x,
            *self._constants(name, blocks),
            domain=MICROSOFT,
            K=num_blocks * size,
            N=columns,
            bits=blocks[0].bits,
            block_size=size,
            accuracy_level=_INT8_ACTIVATIONS,
        )
        offsets = [each.offsets for each in blocks if each.offsets is not None]
        if not offsets:
            return product
        parts = graph.op("Reshape", x, graph.constant([-1, num_blocks, size]))
        sums = graph.op("ReduceSum", parts, graph.constant([-1]), keepdims=0)  # (tokens, blocks)
        return graph.op(
            "Gemm", sums, graph.constant(np.concatenate(offsets), name + "_offsets"), product, transB=1
        )


def quantized(weight: Floats) -> Blocks | None:
    """A matrix (N, K) in blocks of 8 bits, as Q8_0 of GGUF has it; None where K is no multiple of a block."""
    if weight.ndim != 2 or weight.shape[1] % BLOCK_SIZE:
        return None
    return keep_blocks(gguf.quants.quantize(weight, Kind.Q8_0), Kind.Q8_0)
