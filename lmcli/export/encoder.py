"""The fast graph of BERT-like encoders, built straight from the weights.

`FAMILIES` maps the weight names of an architecture to the parts of a post-norm encoder; `build_encoder`
writes the graph: packed query, key and value projections, GroupQueryAttention without a mask (the engine only
batches rows of equal length), plain Add and LayerNormalization (faster on a CPU than their fused forms,
docs/design.md), and for classification a last layer that works on the first position alone. `build_embedder`
ends the same encoder with one vector for each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto

from lmcli.export.layers import ACTIVATIONS, Layers, Weights

Pooled = Literal["mean", "cls"]


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
    return shape if fits and shape.activation in ACTIVATIONS else None


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
    builder.head(builder.body(first_only=pooled), pooled=pooled)
    return builder.graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={
            "logits": (TensorProto.FLOAT, ["batch", "labels"] if pooled else ["batch", "sequence", "labels"])
        },
    )


def build_embedder(
    weights: Weights, model_type: str, shape: Shape, pooled: Pooled, *, normalize: bool, grouped: bool
) -> onnx.ModelProto:
    """The float32 graph of a sentence encoder: input_ids (batch, sequence) to embeddings (batch, hidden).

    An embedding is the mean of all positions, or the first one, of length 1 if `normalize`. Attention as in
    `build_encoder`.
    """
    builder = _Encoder(weights, FAMILIES[model_type], shape, grouped=grouped)
    builder.pool(builder.body(first_only=pooled == "cls"), normalize=normalize)
    return builder.graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={"embeddings": (TensorProto.FLOAT, ["batch", shape.hidden_size])},
    )


class _Encoder(Layers):
    """One encoder being written into `graph`."""

    def __init__(self, weights: Weights, family: Family, shape: Shape, *, grouped: bool) -> None:
        super().__init__(weights)
        self._family = family
        self._shape = shape
        self._first = self.graph.constant([0])
        self._length = self.graph.size("input_ids", 1)
        self._lengths = self.row_lengths(self.graph.size("input_ids", 0), self._length) if grouped else None

    def body(self, *, first_only: bool) -> str:
        """All layers: input_ids (batch, sequence) to (batch, sequence, hidden), or (batch, 1, hidden)."""
        hidden = self._words("input_ids")
        last = self._shape.num_layers - 1
        for index in range(self._shape.num_layers):
            hidden = self._layer(hidden, index, first_only=first_only and index == last)
        return hidden

    def _words(self, input_ids: str) -> str:
        """Words, positions and (always the first) segment: (batch, sequence) to (batch, sequence, hidden)."""
        graph, prefix = self.graph, self._family.prefix + "embeddings."
        positions = self.weights[prefix + "position_embeddings.weight"][self._shape.first_position :]
        segments = self.weights.get(prefix + "token_type_embeddings.weight")
        if segments is not None:
            positions = positions + segments[0]
        words = graph.op("Gather", self.constant(prefix + "word_embeddings.weight"), input_ids)
        place = graph.op(
            "Slice", graph.constant(positions, "positions"), self._first, self._length, self._first
        )
        hidden = self._norm(graph.op("Add", words, place), prefix + "LayerNorm")
        projection = self._family.prefix + "embeddings_project"  # ELECTRA's narrow embeddings
        if projection + ".weight" in self.weights:
            hidden = self.linear(hidden, projection)
        return hidden

    def _layer(self, hidden: str, index: int, *, first_only: bool) -> str:
        """One post-norm layer; with `first_only` its result holds the first position alone."""
        family, graph = self._family, self.graph
        prefix = family.prefix + family.layer.format(index)
        projected = [prefix + name for name in (family.query, family.key, family.value)]
        attended = self.attend(self.linear(hidden, *projected), self._shape.num_heads, self._lengths)
        if first_only:
            attended, hidden = self._first_position(attended), self._first_position(hidden)
        attended = self.linear(attended, prefix + family.attention_output)
        hidden = self._norm(graph.op("Add", attended, hidden), prefix + family.attention_norm)
        wide = self.activate(self.linear(hidden, prefix + family.up), self._shape.activation)
        narrow = self.linear(wide, prefix + family.down)
        return self._norm(graph.op("Add", narrow, hidden), prefix + family.norm)

    def head(self, hidden: str, *, pooled: bool) -> None:
        """The trained head: (batch, 1, hidden) to logits (batch, labels), or per token without `pooled`."""
        if not pooled:
            self.linear(hidden, "classifier", output="logits")
            return
        graph = self.graph
        hidden = graph.op("Squeeze", hidden, graph.constant([1]))  # (batch, hidden)
        *inner, (last, _) = self._family.classifier
        for name, activation in inner:
            hidden = self.activate(self._gemm(hidden, name), activation)
        self._gemm(hidden, last, output="logits")

    def pool(self, hidden: str, *, normalize: bool) -> None:
        """The mean of the positions that are left: (batch, …, hidden) to embeddings (batch, hidden).

        No row is padded, so every position counts. ReduceMean and ReduceL2 sum a single row in another order
        than several, so the mean is a product, and the norm what a layer's norm of the root mean square is.
        """
        graph = self.graph
        length = self.graph.size(hidden, 1)
        share = graph.op("Reciprocal", graph.op("Cast", length, to=TensorProto.FLOAT))
        shares = graph.op("Expand", share, graph.op("Concat", graph.constant([1]), length, axis=0))
        mean = graph.op("MatMul", shares, hidden)  # (batch, 1, hidden)
        if normalize:
            size = self._shape.hidden_size
            scale = graph.constant(np.full(size, size**-0.5, np.float32))
            mean = graph.op("SimplifiedLayerNormalization", mean, scale, epsilon=1e-24, axis=-1, stash_type=1)
        graph.op("Squeeze", mean, graph.constant([1]), output="embeddings")

    def _gemm(self, x: str, name: str, output: str = "") -> str:
        """A linear layer of the head, as a Gemm: `quantize` leaves those in float."""
        weight, bias = self.constant(name + ".weight"), self.constant(name + ".bias")
        return self.graph.op("Gemm", x, weight, bias, transB=1, output=output)

    def _norm(self, x: str, name: str) -> str:
        return self.norm(x, name, self._shape.norm_epsilon)

    def _first_position(self, x: str) -> str:
        return self.graph.op("Gather", x, self._first, axis=1)  # (batch, 1, hidden)
