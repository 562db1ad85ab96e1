"""`Layers`: the parts that all fast graphs are made of, written into one graph from trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from lmcli.export.graph import MICROSOFT, Graph

Weights = Mapping[str, npt.NDArray[np.float32]]

ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "tanh": lambda graph, x: graph.op("Tanh", x),
    "relu": lambda graph, x: graph.op("Relu", x),
    "gelu": lambda graph, x: graph.op("Gelu", x),
    "gelu_new": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
    "silu": lambda graph, x: graph.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0),
    "swish": lambda graph, x: graph.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0),
}


def attention_attributes(num_heads: int, scale: float) -> dict[str, Any]:
    """What every attention operator is told; scale: 0 is its own, 1 / sqrt(head size)."""
    return {"num_heads": num_heads} | ({"scale": scale} if scale else {})


class Layers:
    """One graph being written; `name`s are those of the checkpoint's weights."""

    def __init__(self, weights: Weights) -> None:
        self.graph = Graph()
        self.weights = weights

    def embed(self, ids: str, name: str) -> str:
        """The rows of a table that ids name."""
        return self.graph.op("Gather", self.constant(name), ids)

    def linear(self, x: str, *names: str, output: str = "") -> str:
        """The torch linear layers `names`, with bias or without, side by side in one product."""
        weight = np.concatenate([self.weights[name + ".weight"].T for name in names], axis=1)
        constant = self.graph.constant(np.ascontiguousarray(weight), names[0])
        biases = [self.weights.get(name + ".bias") for name in names]
        given = [bias for bias in biases if bias is not None]
        if not given:
            return self.graph.op("MatMul", x, constant, output=output)
        if len(given) < len(names):  # Whisper's kin: queries and values have one, keys have not
            raise ValueError(f"only some of {names} have a bias")
        bias = self.graph.constant(np.concatenate(given))
        return self.graph.op("Add", self.graph.op("MatMul", x, constant), bias, output=output)

    def norm(self, x: str, name: str, epsilon: float, *, offset: float = 0) -> str:
        """LayerNormalization; without its bias, as T5 has it, the root mean square alone.

        (Zhang and Sennrich 2019, arXiv:1910.07467.) offset: what the weights are stored less.
        """
        weight = self.weights[name + ".weight"]
        scale = self.graph.constant(weight + np.float32(offset) if offset else weight, name + ".weight")
        if name + ".bias" in self.weights:
            return self.graph.op(
                "LayerNormalization", x, scale, self.constant(name + ".bias"), epsilon=epsilon
            )
        return self.graph.op("SimplifiedLayerNormalization", x, scale, epsilon=epsilon, axis=-1, stash_type=1)

    def activate(self, x: str, activation: str) -> str:
        """The activation function, under the name that configurations use."""
        return ACTIVATIONS[activation](self.graph, x)

    def attend(
        self,
        packed: str,
        num_heads: int,
        lengths: tuple[str, str] | None,
        *,
        bias: str = "",
        scale: float = 0,
    ) -> str:
        """Attention of every position to every other: (batch, sequence, 3 * inner) to (…, inner).

        GroupQueryAttention with the `lengths` of `row_lengths`, MultiHeadAttention without. bias: (1, heads,
        sequence, sequence), added to the products of queries and keys. scale: 0 is 1 / sqrt(head size).
        """
        given = attention_attributes(num_heads, scale)
        if lengths is None:
            parts = self.graph.split(packed, 3)
            optional = ["", "", bias] if bias else []
            return self.graph.op("MultiHeadAttention", *parts, *optional, domain=MICROSOFT, **given)
        optional = ["", "", "", bias] if bias else []
        return self.graph.op(
            "GroupQueryAttention",
            *(packed, "", "", "", ""),
            *lengths,
            *optional,
            domain=MICROSOFT,
            kv_num_heads=num_heads,
            causal=0,
            **given,
        )

    def row_lengths(self, batch: str, length: str) -> tuple[str, str]:
        """What GroupQueryAttention wants as int32: the last position of each row, the length of all.

        batch, length: int64 (1,). All rows of a batch are of equal length, so none is padded.
        """
        graph = self.graph
        last = graph.op("Cast", graph.op("Sub", length, graph.constant(1)), to=TensorProto.INT32)
        total = graph.op("Cast", length, to=TensorProto.INT32)
        scalar = graph.constant(np.array([], np.int64))
        return graph.op("Expand", last, batch), graph.op("Reshape", total, scalar)  # (batch,), ()

    def constant(self, name: str) -> str:
        """A weight as it is."""
        return self.graph.constant(self.weights[name], name)


def cache_names(kind: str, num_layers: int) -> list[str]:
    """The inputs (`past`, `cross`) or outputs (`present`) that hold keys and values, layer by layer."""
    return [f"{kind}.{index}.{part}" for index in range(num_layers) for part in ("key", "value")]
