"""The fast graph of BERT-like encoders, built straight from the weights.

`FAMILIES` maps the weight names of an architecture to the parts of a post-norm encoder; `build_encoder`
writes the graph: packed query, key and value projections, GroupQueryAttention without a mask (the engine only
batches rows of equal length), plain Add and LayerNormalization (faster on a CPU than their fused forms,
docs/design.md), and for classification a last layer that works on the first position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from lmcli.export.graph import MICROSOFT, Graph

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the parts of an encoder are found in a checkpoint, as names below `prefix`."""

    prefix: str
    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"
    classifier: tuple[tuple[str, str], ...]
    """The head for whole texts: (linear layer, activation after it) pairs, full names."""


_ROBERTA = Family(prefix="roberta.", classifier=(("classifier.dense", "tanh"), ("classifier.out_proj", "")))

FAMILIES: Mapping[str, Family] = {
    "bert": Family(prefix="bert.", classifier=(("bert.pooler.dense", "tanh"), ("classifier", ""))),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(
        prefix="electra.", classifier=(("classifier.dense", "gelu"), ("classifier.out_proj", ""))
    ),
    "distilbert": Family(
        prefix="distilbert.",
        layer="transformer.layer.{}.",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        norm="output_layer_norm",
        classifier=(("pre_classifier", "relu"), ("classifier", "")),
    ),
}

_ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "tanh": lambda graph, x: graph.op("Tanh", x),
    "relu": lambda graph, x: graph.op("Relu", x),
    "gelu": lambda graph, x: graph.op("Gelu", x),
    "gelu_new": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda graph, x: graph.op("Gelu", x, approximate="tanh"),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes and options of an encoder, under the names that most configurations use."""

    num_layers: int
    num_heads: int
    hidden_size: int
    activation: str
    norm_epsilon: float
    first_position: int
    """The row of the position table that the first token uses: RoBERTa starts behind its padding id."""


def shape_of(config: Any) -> Shape | None:
    """The shape of a transformers configuration, or None where only the plain graph is right for it."""
    if config.model_type not in FAMILIES:
        return None
    distil = config.model_type == "distilbert"
    roberta = FAMILIES[config.model_type] is _ROBERTA
    shape = Shape(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        activation=config.activation if distil else config.hidden_act,
        norm_epsilon=1e-12 if distil else config.layer_norm_eps,
        first_position=config.pad_token_id + 1 if roberta else 0,
    )
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    # GroupQueryAttention wants heads of a multiple of eight.
    heads_fit = shape.hidden_size % (8 * shape.num_heads) == 0
    fits = absolute and heads_fit and not getattr(config, "is_decoder", False)
    return shape if fits and shape.activation in _ACTIVATIONS else None


def build_encoder(
    weights: Weights, model_type: str, shape: Shape, task: str, *, grouped: bool
) -> onnx.ModelProto:
    """The float32 graph: input_ids (batch, sequence) to logits.

    logits: (batch, labels) for text-classification, (batch, sequence, labels) for token-classification.
    Attention is GroupQueryAttention if `grouped`, the fastest on a CPU; else MultiHeadAttention, which CUDA
    has in every precision.
    """
    builder = _Encoder(weights, FAMILIES[model_type], shape, grouped=grouped)
    pooled = task == "text-classification"
    hidden = builder.embed("input_ids")  # (batch, sequence, hidden)
    for index in range(shape.num_layers):
        hidden = builder.layer(hidden, index, first_only=pooled and index == shape.num_layers - 1)
    builder.head(hidden, pooled=pooled)
    return builder.graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={"logits": ["batch", "labels"] if pooled else ["batch", "sequence", "labels"]},
    )


class _Encoder:
    """One encoder being written into `graph`."""

    def __init__(self, weights: Weights, family: Family, shape: Shape, *, grouped: bool) -> None:
        self.graph = Graph()
        self._weights = weights
        self._family = family
        self._shape = shape
        self._first = self.graph.constant([0])
        sizes = self.graph.op("Shape", "input_ids")  # [batch, sequence]
        one, two = self.graph.constant([1]), self.graph.constant([2])
        self._length = self.graph.op("Slice", sizes, one, two)
        self._lengths = (
            self._row_lengths(self.graph.op("Slice", sizes, self._first, one)) if grouped else None
        )

    def _row_lengths(self, batch: str) -> tuple[str, str]:
        """What GroupQueryAttention wants as int32: the last position of each row, the length of all."""
        graph = self.graph
        last = graph.op("Cast", graph.op("Sub", self._length, graph.constant(1)), to=TensorProto.INT32)
        length = graph.op("Cast", self._length, to=TensorProto.INT32)
        scalar = graph.constant(np.array([], np.int64))
        return graph.op("Expand", last, batch), graph.op("Reshape", length, scalar)  # (batch,), ()

    def embed(self, input_ids: str) -> str:
        """Words, positions and (always the first) segment: (batch, sequence) to (batch, sequence, hidden)."""
        graph, prefix = self.graph, self._family.prefix + "embeddings."
        positions = self._weights[prefix + "position_embeddings.weight"][self._shape.first_position :]
        segments = self._weights.get(prefix + "token_type_embeddings.weight")
        if segments is not None:
            positions = positions + segments[0]
        words = graph.op("Gather", self._constant(prefix + "word_embeddings.weight"), input_ids)
        place = graph.op(
            "Slice", graph.constant(positions, "positions"), self._first, self._length, self._first
        )
        hidden = self._norm(graph.op("Add", words, place), prefix + "LayerNorm")
        projection = self._family.prefix + "embeddings_project"  # ELECTRA's narrow embeddings
        if projection + ".weight" in self._weights:
            hidden = self._linear(hidden, projection)
        return hidden

    def layer(self, hidden: str, index: int, *, first_only: bool) -> str:
        """One post-norm layer; with `first_only` its result holds the first position alone."""
        family, graph = self._family, self.graph
        prefix = family.prefix + family.layer.format(index)
        projected = [prefix + name for name in (family.query, family.key, family.value)]
        attended = self._attend(self._linear(hidden, *projected))
        if first_only:
            attended, hidden = self._first_position(attended), self._first_position(hidden)
        attended = self._linear(attended, prefix + family.attention_output)
        hidden = self._norm(graph.op("Add", attended, hidden), prefix + family.attention_norm)
        wide = self._activate(self._linear(hidden, prefix + family.up), self._shape.activation)
        narrow = self._linear(wide, prefix + family.down)
        return self._norm(graph.op("Add", narrow, hidden), prefix + family.norm)

    def _attend(self, packed: str) -> str:
        """Attention of every position to every other: (batch, sequence, 3 * hidden) to (…, hidden)."""
        heads = self._shape.num_heads
        if self._lengths is None:
            parts = self.graph.split(packed, 3)
            return self.graph.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=heads)
        return self.graph.op(
            "GroupQueryAttention",
            *(packed, "", "", "", ""),
            *self._lengths,
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=heads,
            causal=0,
        )

    def head(self, hidden: str, *, pooled: bool) -> None:
        """The trained head: (batch, 1, hidden) to logits (batch, labels), or per token without `pooled`."""
        if not pooled:
            self._linear(hidden, "classifier", output="logits")
            return
        graph = self.graph
        hidden = graph.op("Squeeze", hidden, graph.constant([1]))  # (batch, hidden)
        *inner, (last, _) = self._family.classifier
        for name, activation in inner:
            hidden = self._activate(self._gemm(hidden, name), activation)
        self._gemm(hidden, last, output="logits")

    def _gemm(self, x: str, name: str, output: str = "") -> str:
        """A linear layer of the head, as a Gemm: `quantize` leaves those in float."""
        weight, bias = self._constant(name + ".weight"), self._constant(name + ".bias")
        return self.graph.op("Gemm", x, weight, bias, transB=1, output=output)

    def _linear(self, x: str, *names: str, output: str = "") -> str:
        """The torch linear layers `names`, side by side in one product."""
        weight = np.concatenate([self._weights[name + ".weight"].T for name in names], axis=1)
        bias = np.concatenate([self._weights[name + ".bias"] for name in names])
        product = self.graph.op("MatMul", x, self.graph.constant(np.ascontiguousarray(weight), names[0]))
        return self.graph.op("Add", product, self.graph.constant(bias), output=output)

    def _norm(self, x: str, name: str) -> str:
        scale, bias = self._constant(name + ".weight"), self._constant(name + ".bias")
        return self.graph.op("LayerNormalization", x, scale, bias, epsilon=self._shape.norm_epsilon)

    def _activate(self, x: str, activation: str) -> str:
        return _ACTIVATIONS[activation](self.graph, x)

    def _first_position(self, x: str) -> str:
        return self.graph.op("Gather", x, self._first, axis=1)  # (batch, 1, hidden)

    def _constant(self, name: str) -> str:
        return self.graph.constant(self._weights[name], name)
