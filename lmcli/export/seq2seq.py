"""The fast graphs of encoder-decoders, built straight from the weights.

The encoder's graph ends with the keys and values that every decoder layer attends to, so they are computed
once for each source. The decoder's graph makes one step for all rows:

- self-attention is GroupQueryAttention on a cache that is updated in place, each row at its own length;
- in cross-attention the beams of a source are query positions over the source's one set of keys and values;
- the head returns the k best tokens of each row and the logarithm of the sum that normalizes their
  probabilities, so nothing of the size of the vocabulary leaves the graph.

For CUDA, where rows cannot be moved by numpy, the decoder takes the cache by the row that each row continues
(`parents`) and returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from lmcli.export.choice import CHOICE, GROUP, NEVER, choose
from lmcli.export.graph import MICROSOFT, Tensor
from lmcli.export.layers import Layers, Weights, attention_attributes, cache_names
from lmcli.export.quantize import PADDING, POSITIONS
from lmcli.export.seq2seq_shape import Shape, Stack

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def build_seq2seq(
    weights: Weights, shape: Shape, *, in_place: bool
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float32 graphs of encoder and decoder; engine/seq2seq.py runs them and says what they take.

    With `in_place` for the CPU, else for CUDA.
    """
    return _Encoder(weights, shape, grouped=in_place).build(), _Decoder(
        weights, shape, in_place=in_place
    ).build()


class _Builder(Layers):
    """What both stacks have in common."""

    def __init__(self, weights: Weights, shape: Shape, stack: Stack) -> None:
        super().__init__(weights)
        self._shape = shape
        self._stack = stack

    def _embed(self, ids: str, positions: str) -> str:
        """Embedded tokens with positions added: ids (batch, sequence); positions empty for T5."""
        table = self.weights[self._stack.embedding + ".weight"] * np.float32(self._shape.embedding_scale)
        hidden = self.graph.op("Gather", self.graph.constant(table, self._stack.embedding), ids)
        if positions:
            hidden = self.graph.op("Add", hidden, positions)
        return self._optional_norm(hidden, self._stack.embedding_norm)

    def _optional_norm(self, x: str, name: str) -> str:
        return self.norm(x, name, self._shape.norm_epsilon) if name + ".weight" in self.weights else x

    def _sublayer(self, hidden: str, norm: str, function: Any) -> str:
        """A sublayer with its residual connection; the norm comes before it or behind it."""
        epsilon = self._shape.norm_epsilon
        if self._shape.pre_norm:
            return self.graph.op("Add", hidden, function(self.norm(hidden, norm, epsilon)))
        return self.norm(self.graph.op("Add", hidden, function(hidden)), norm, epsilon)

    def _feed_forward(self, x: str, prefix: str) -> str:
        stack = self._stack
        wide = self.activate(self.linear(x, prefix + stack.up), self._shape.activation)
        if stack.gate:
            wide = self.graph.op("Mul", wide, self.linear(x, prefix + stack.gate))
        return self.linear(wide, prefix + stack.down)

    def _last_norm(self, hidden: str) -> str:
        return self._optional_norm(hidden, self._stack.last_norm)


class _Encoder(_Builder):
    """input_ids (batch, sequence) to the keys and values of every decoder layer."""

    def __init__(self, weights: Weights, shape: Shape, *, grouped: bool) -> None:
        super().__init__(weights, shape, shape.encoder)
        self._length = self.graph.size("input_ids", 1)
        self._lengths = self.row_lengths(self.graph.size("input_ids", 0), self._length) if grouped else None
        self._bias = self._position_bias() if shape.max_distance else ""

    def build(self) -> onnx.ModelProto:
        """The graph."""
        shape, stack = self._shape, self._stack
        hidden = self._embed("input_ids", "" if shape.max_distance else self._positions())
        for index in range(shape.num_encoder_layers):
            prefix = stack.layer.format(index)
            hidden = self._sublayer(
                hidden, prefix + stack.self_norm, lambda x, prefix=prefix: self._attention(x, prefix)
            )
            hidden = self._sublayer(
                hidden, prefix + stack.feed_norm, lambda x, prefix=prefix: self._feed_forward(x, prefix)
            )
        outputs = self._cross(self._last_norm(hidden))
        return self.graph.model(
            inputs={"input_ids": (INT64, ["batch", "sequence"])},
            outputs={
                name: (FLOAT, ["batch", shape.num_decoder_heads, "sequence", shape.head_size])
                for name in outputs
            },
        )

    def _positions(self) -> str:
        first = self.graph.constant([0])
        table = self.constant(f"{POSITIONS}.encoder")
        return self.graph.op("Slice", table, first, self._length, first)

    def _position_bias(self) -> str:
        """T5's bias, (1, heads, sequence, sequence): each pair's distance picks its row."""
        graph, farthest = self.graph, self._shape.max_distance
        place = graph.op("Range", graph.constant(0), self._scalar(self._length), graph.constant(1))
        distance = graph.op(
            "Sub",
            graph.op("Unsqueeze", place, graph.constant([0])),
            graph.op("Unsqueeze", place, graph.constant([1])),
        )  # (query, key)
        near = graph.op("Clip", distance, graph.constant(-farthest), graph.constant(farthest))
        row = graph.op("Add", near, graph.constant(farthest))
        bias = graph.op("Gather", self.constant(f"{POSITIONS}.encoder"), row)  # (query, key, heads)
        return graph.op("Unsqueeze", graph.op("Transpose", bias, perm=[2, 0, 1]), graph.constant([0]))

    def _scalar(self, x: str) -> str:
        return self.graph.op("Squeeze", x)

    def _attention(self, x: str, prefix: str) -> str:
        *projected, output = (prefix + name for name in self._stack.self_attention)
        attended = self.attend(
            self.linear(x, *projected),
            self._shape.num_encoder_heads,
            self._lengths,
            bias=self._bias,
            scale=self._shape.attention_scale,
        )
        return self.linear(attended, output)

    def _cross(self, hidden: str) -> list[str]:
        """Keys and values of all decoder layers from one product; the names of the outputs."""
        shape, decoder, graph = self._shape, self._shape.decoder, self.graph
        names = [
            decoder.layer.format(index) + name
            for index in range(shape.num_decoder_layers)
            for name in decoder.cross_attention[1:3]
        ]
        outputs = cache_names("cross", shape.num_decoder_layers)
        heads = graph.constant([0, 0, shape.num_decoder_heads, shape.head_size])
        for part, output in zip(graph.split(self.linear(hidden, *names), len(names)), outputs, strict=True):
            graph.op("Transpose", graph.op("Reshape", part, heads), perm=[0, 2, 1, 3], output=output)
        return outputs


class _Decoder(_Builder):
    """One token of each row, and the cache, to the best next tokens."""

    def __init__(self, weights: Weights, shape: Shape, *, in_place: bool) -> None:
        super().__init__(weights, shape, shape.decoder)
        self._in_place = in_place
        graph = self.graph
        if in_place:
            self._position = graph.op("Cast", "past_length", to=INT64)  # (rows,)
        else:
            self._position = self.graph.size("past.0.key", 2)  # (1,): all rows are of equal length
        width = shape.num_decoder_heads * shape.head_size
        by_source = graph.op(
            "Concat", self.graph.size("cross.0.key", 0), graph.constant([-1, width]), axis=0
        )  # [sources, beams, width]
        self._by_source, self._by_row = by_source, graph.constant([-1, 1, width])
        self._bias = self._position_bias() if shape.max_distance else ""

    def build(self) -> onnx.ModelProto:
        """The graph."""
        shape, stack, graph = self._shape, self._stack, self.graph
        hidden = self._embed("input_ids", "" if shape.max_distance else self._place())  # (rows, 1, hidden)
        for index in range(shape.num_decoder_layers):
            prefix = stack.layer.format(index)
            hidden = self._sublayer(
                hidden,
                prefix + stack.self_norm,
                lambda x, prefix=prefix, index=index: self._self_attention(x, prefix, index),
            )
            hidden = self._sublayer(
                hidden,
                prefix + stack.cross_norm,
                lambda x, prefix=prefix, index=index: self._cross_attention(x, prefix, index),
            )
            hidden = self._sublayer(
                hidden, prefix + stack.feed_norm, lambda x, prefix=prefix: self._feed_forward(x, prefix)
            )
        hidden = graph.op("Squeeze", self._last_norm(hidden), graph.constant([1]))  # (rows, hidden)
        # CUDA's TopK is fast by itself.
        num_groups = -(-len(self.weights["lm_head.weight"]) // GROUP) if self._in_place else 0
        choose(graph, self._logits(hidden, num_groups * GROUP), num_groups)
        return graph.model(inputs=self._inputs(), outputs={**CHOICE, **self._cache("present")})

    def _inputs(self) -> Mapping[str, Tensor]:
        shape = self._shape
        own: dict[str, Tensor] = {"input_ids": (INT64, ["rows", 1]), "k": (INT64, [1])}
        if self._in_place:
            own["past_length"] = (INT32, ["rows"])
            own["total_length"] = (INT32, [])
            own["source_mask"] = (INT32, ["sources", "source"])
        else:
            own["parents"] = (INT64, ["rows"])
        cross: Tensor = (FLOAT, ["sources", shape.num_decoder_heads, "source", shape.head_size])
        return (
            own | self._cache("past") | dict.fromkeys(cache_names("cross", shape.num_decoder_layers), cross)
        )

    def _cache(self, kind: str) -> dict[str, Tensor]:
        shape = self._shape
        axes: Sequence[str | int]
        if self._in_place:
            axes = ["rows", shape.num_decoder_heads, "capacity", shape.head_size]
        else:
            axes = [f"{kind}_rows", shape.num_decoder_heads, f"{kind}_length", shape.head_size]
        return dict.fromkeys(cache_names(kind, shape.num_decoder_layers), (FLOAT, axes))

    def _place(self) -> str:
        """The embedded position of each row: (rows or 1, 1, hidden)."""
        table = self.constant(f"{POSITIONS}.decoder")
        return self.graph.op(
            "Unsqueeze", self.graph.op("Gather", table, self._position), self.graph.constant([1])
        )

    def _position_bias(self) -> str:
        """T5's bias, (rows or 1, heads, 1, length): the distance to each key picks its row."""
        graph = self.graph
        if self._in_place:
            total = graph.op("Cast", "total_length", to=INT64)
        else:
            total = graph.op("Squeeze", graph.op("Add", self._position, graph.constant([1])))
        place = graph.op("Range", graph.constant(0), total, graph.constant(1))
        distance = graph.op("Sub", graph.op("Unsqueeze", self._position, graph.constant([1])), place)
        near = graph.op("Clip", distance, graph.constant(0), graph.constant(self._shape.max_distance))
        bias = graph.op("Gather", self.constant(f"{POSITIONS}.decoder"), near)  # (rows, length, heads)
        return graph.op("Unsqueeze", graph.op("Transpose", bias, perm=[0, 2, 1]), graph.constant([2]))

    def _self_attention(self, x: str, prefix: str, index: int) -> str:
        *projected, output = (prefix + name for name in self._stack.self_attention)
        packed = self.linear(x, *projected)
        past, present = f"past.{index}.", f"present.{index}."
        attributes = attention_attributes(self._shape.num_decoder_heads, self._shape.attention_scale)
        outputs = [f"{prefix}attended", f"{present}key", f"{present}value"]
        if self._in_place:
            optional = ["", "", "", self._bias] if self._bias else []
            attended, *_ = self.graph.ops(
                "GroupQueryAttention",
                *(packed, "", "", f"{past}key", f"{past}value", "past_length", "total_length", *optional),
                outputs=outputs,
                domain=MICROSOFT,
                kv_num_heads=self._shape.num_decoder_heads,
                **attributes,
            )
        else:
            key, value = (
                self.graph.op("Gather", past + name, "parents", axis=0) for name in ("key", "value")
            )
            attended, *_ = self.graph.ops(
                "MultiHeadAttention",
                *(*self.graph.split(packed, 3), "", "", self._bias, key, value),
                outputs=outputs,
                domain=MICROSOFT,
                **attributes,
            )
        return self.linear(attended, output)

    def _cross_attention(self, x: str, prefix: str, index: int) -> str:
        query, _, _, output = (prefix + name for name in self._stack.cross_attention)
        graph = self.graph
        attributes = attention_attributes(self._shape.num_decoder_heads, self._shape.attention_scale)
        mask = ["", "source_mask"] if self._in_place else []
        attended = graph.op(
            "MultiHeadAttention",
            graph.op("Reshape", self.linear(x, query), self._by_source),
            *(f"cross.{index}.key", f"cross.{index}.value", *mask),
            domain=MICROSOFT,
            **attributes,
        )
        return self.linear(graph.op("Reshape", attended, self._by_row), output)

    def _logits(self, hidden: str, least: int) -> str:
        """(rows, hidden) to (rows, vocabulary), or to `least` logits: those of no token are out of reach."""
        graph, weight = self.graph, self.weights["lm_head.weight"].T
        if self._shape.head_scale != 1:
            scale = graph.constant(np.array(self._shape.head_scale, np.float32))
            hidden = graph.op("Mul", hidden, scale)
        more = (0, max(0, least - weight.shape[1]))
        padding = np.pad(np.zeros(weight.shape[1], np.float32), more, constant_values=NEVER)
        weight = np.ascontiguousarray(np.pad(weight, ((0, 0), more)))
        logits = graph.op("Gemm", hidden, graph.constant(weight, "lm_head"), graph.constant(padding, PADDING))
        bias = self.weights.get("final_logits_bias")
        if bias is None or not bias.any():
            return logits
        return graph.op("Add", logits, graph.constant(np.pad(bias.reshape(-1), more), "final_logits_bias"))
