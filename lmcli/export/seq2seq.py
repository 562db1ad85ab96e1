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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from lmcli.export.graph import MICROSOFT, Graph, Tensor
from lmcli.export.layers import ACTIVATIONS, Layers, Weights, attention_attributes
from lmcli.export.quantize import PADDING, POSITIONS

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the parts of an encoder or decoder are found in a checkpoint; layers' parts below `layer`."""

    embedding: str
    layer: str
    self_attention: tuple[str, str, str, str]
    """Query, key, value, output."""
    self_norm: str
    cross_attention: tuple[str, str, str, str] = ("", "", "", "")
    cross_norm: str = ""
    up: str
    gate: str = ""
    """The half of a gated feed-forward layer that is not activated, if there is one."""
    down: str
    feed_norm: str
    embedding_norm: str
    """Names of layers that only some checkpoints have."""
    last_norm: str


def _bart(side: str) -> Stack:
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    return Stack(
        embedding=f"model.{side}.embed_tokens",
        layer=f"model.{side}.layers.{{}}.",
        self_attention=tuple(f"self_attn.{name}" for name in attention),  # type: ignore[arg-type]
        self_norm="self_attn_layer_norm",
        cross_attention=tuple(f"encoder_attn.{name}" for name in attention),  # type: ignore[arg-type]
        cross_norm="encoder_attn_layer_norm",
        up="fc1",
        down="fc2",
        feed_norm="final_layer_norm",
        embedding_norm=f"model.{side}.layernorm_embedding",
        last_norm=f"model.{side}.layer_norm",
    )


def _t5(side: str, *, gated: bool) -> Stack:
    feed = "layer.1." if side == "encoder" else "layer.2."
    return Stack(
        embedding=f"{side}.embed_tokens",
        layer=f"{side}.block.{{}}.",
        self_attention=tuple(f"layer.0.SelfAttention.{name}" for name in "qkvo"),  # type: ignore[arg-type]
        self_norm="layer.0.layer_norm",
        cross_attention=tuple(f"layer.1.EncDecAttention.{name}" for name in "qkvo"),  # type: ignore[arg-type]
        cross_norm="layer.1.layer_norm",
        up=feed + ("DenseReluDense.wi_0" if gated else "DenseReluDense.wi"),
        gate=feed + "DenseReluDense.wi_1" if gated else "",
        down=feed + "DenseReluDense.wo",
        feed_norm=feed + "layer_norm",
        embedding_norm="",
        last_norm=f"{side}.final_layer_norm",
    )


_BART_LIKE = ("bart", "m2m_100", "marian", "mbart", "pegasus")
_T5_LIKE = ("mt5", "t5")
_PRE_NORM = frozenset({"m2m_100", "mbart", "pegasus", "mt5", "t5"})


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes and options of an encoder-decoder."""

    encoder: Stack
    decoder: Stack
    num_encoder_layers: int
    num_decoder_layers: int
    num_encoder_heads: int
    num_decoder_heads: int
    head_size: int
    activation: str
    norm_epsilon: float
    pre_norm: bool
    attention_scale: float
    """What products of queries and keys are multiplied with; 0 is 1 / sqrt(head size)."""
    embedding_scale: float
    head_scale: float
    """What the last hidden states are multiplied with before the output layer."""
    max_distance: int
    """The distance from which on T5's position bias is the same; 0: positions are embedded."""


def shape_of(config: Any) -> Shape | None:
    """The shape of a transformers configuration, or None where only the plain graph is right for it."""
    if config.model_type in _BART_LIKE:
        shape = Shape(
            encoder=_bart("encoder"),
            decoder=_bart("decoder"),
            num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            num_encoder_heads=config.encoder_attention_heads,
            num_decoder_heads=config.decoder_attention_heads,
            head_size=config.d_model // config.decoder_attention_heads,
            activation=config.activation_function,
            norm_epsilon=1e-5,
            pre_norm=config.model_type in _PRE_NORM,
            attention_scale=0.0,
            embedding_scale=math.sqrt(config.d_model) if config.scale_embedding else 1,
            head_scale=1,
            max_distance=0,
        )
        widths = {config.d_model // config.encoder_attention_heads, shape.head_size}
    elif config.model_type in _T5_LIKE:
        shape = Shape(
            encoder=_t5("encoder", gated=config.is_gated_act),
            decoder=_t5("decoder", gated=config.is_gated_act),
            num_encoder_layers=config.num_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_encoder_heads=config.num_heads,
            num_decoder_heads=config.num_heads,
            head_size=config.d_kv,
            activation=config.dense_act_fn,
            norm_epsilon=config.layer_norm_epsilon,
            pre_norm=True,
            attention_scale=1.0,
            embedding_scale=1,
            head_scale=config.d_model**-0.5 if config.tie_word_embeddings else 1,
            max_distance=config.relative_attention_max_distance,
        )
        widths = {config.d_kv}
    else:
        return None
    # GroupQueryAttention wants heads of a multiple of eight.
    fits = all(width % 8 == 0 for width in widths) and shape.activation in ACTIVATIONS
    return shape if fits else None


def read_weights(model: Any) -> Weights:
    """The weights of a transformers model as float32, with its positions under names of our own.

    `positions.encoder`: (length, hidden) from the first position on; for T5 (distances, heads), from
    -max_distance to max_distance for the encoder, from 0 back to max_distance for the decoder.
    """
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    for side, stack in (("encoder", model.get_encoder()), ("decoder", model.get_decoder())):
        if model.config.model_type in _T5_LIKE:
            table = _distance_bias(stack, model.config, bidirectional=side == "encoder")
        else:
            table = _position_table(stack.embed_positions)
        weights[f"{POSITIONS}.{side}"] = table
    return weights


def _position_table(positions: Any) -> Any:
    """The embedded positions, (length, hidden), from the one of the first token on."""
    if hasattr(positions, "weights"):  # M2M-100 counts from behind the padding id
        return positions.weights.float().numpy()[positions.padding_idx + 1 :]
    return positions.weight.detach().float().numpy()[getattr(positions, "offset", 0) :]


def _distance_bias(stack: Any, config: Any, *, bidirectional: bool) -> Any:
    """T5's bias by distance and head (Raffel et al. 2020, section 2.1), one row for each distance."""
    import torch

    attention = stack.block[0].layer[0].SelfAttention
    farthest = config.relative_attention_max_distance
    # Distances are key position minus query position: none lies ahead of a decoder's query.
    distances = torch.arange(-farthest, farthest + 1) if bidirectional else -torch.arange(farthest + 1)
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=bidirectional,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=farthest,
    )
    return attention.relative_attention_bias.weight.detach().float()[buckets].numpy()


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
        num_groups = -(-len(self.weights["lm_head.weight"]) // _GROUP) if self._in_place else 0
        choose(graph, self._logits(hidden, num_groups * _GROUP), num_groups)
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
        padding = np.pad(np.zeros(weight.shape[1], np.float32), more, constant_values=_NEVER)
        weight = np.ascontiguousarray(np.pad(weight, ((0, 0), more)))
        logits = graph.op("Gemm", hidden, graph.constant(weight, "lm_head"), graph.constant(padding, PADDING))
        bias = self.weights.get("final_logits_bias")
        if bias is None or not bias.any():
            return logits
        return graph.op("Add", logits, graph.constant(np.pad(bias.reshape(-1), more), "final_logits_bias"))


# The k best tokens are in the k groups with the best ones. The best of each group is found four numbers at a
# time, while TopK takes one after the other.
_GROUP = 64
_NEVER = -1e30


CHOICE: Mapping[str, Tensor] = {
    "top_logits": (FLOAT, ["rows", "k"]),
    "top_ids": (INT64, ["rows", "k"]),
    "log_normalizer": (FLOAT, ["rows", 1]),
}
"""What a decoder's graph gives of its logits, plain or fast."""


def choose(graph: Graph, logits: str, num_groups: int = 0) -> None:
    """The end of a decoder's graph: logits (rows, vocabulary) to the outputs of CHOICE.

    Its results have names of their own, so that they stay in float32 when the others become fp16.
    num_groups: into how many groups of _GROUP the logits can be cut.
    """
    logits = graph.op("Identity", logits, output="choice_logits")  # the one place where fp16 ends
    if num_groups:
        _best_of_groups(graph, logits, num_groups)
    else:
        graph.ops("TopK", logits, "k", outputs=["top_logits", "top_ids"], axis=-1)
    # log(sum(exp)) = largest logit - its log-probability. ReduceLogSumExp would take ten times as long, and
    # Log of a whole column rounds an element differently by its place.
    first, behind, last = graph.constant([0]), graph.constant([1]), graph.constant([-1])
    best = graph.op("Slice", "top_ids", first, behind, last, output="choice_id")  # (rows, 1)
    all_of_them = graph.op("LogSoftmax", logits, axis=-1, output="choice_log_probabilities")
    log_probability = graph.op("GatherElements", all_of_them, best, axis=-1, output="choice_log_probability")
    largest = graph.op("Slice", "top_logits", first, behind, last, output="choice_logit")
    graph.op("Sub", largest, log_probability, output="log_normalizer")


def _best_of_groups(graph: Graph, logits: str, num_groups: int) -> None:
    """TopK by way of the k groups whose largest logits are the largest."""
    size, last = graph.constant(_GROUP), graph.constant([-1])
    grouped = graph.op(
        "Reshape", logits, graph.constant([0, num_groups, _GROUP]), output="choice_grouped"
    )  # (rows, groups, size)
    largest = graph.op("ReduceMax", grouped, last, keepdims=0, output="choice_largest")
    k = graph.op("Min", "k", graph.constant([num_groups]), output="choice_num_groups")
    _, groups = graph.ops("TopK", largest, k, outputs=["choice_bests", "choice_groups"], axis=-1)  # (rows, k)
    index = graph.op("Unsqueeze", groups, last, output="choice_index")
    picked = graph.op("GatherND", grouped, index, batch_dims=1, output="choice_picked")  # (rows, k, size)
    candidates = graph.op("Flatten", picked, output="choice_candidates")
    graph.ops("TopK", candidates, "k", outputs=["top_logits", "choice_places"], axis=-1)
    nth = graph.op("Div", "choice_places", size, output="choice_nth")
    group = graph.op("GatherElements", groups, nth, axis=-1, output="choice_group")
    start = graph.op("Mul", group, size, output="choice_start")
    graph.op("Add", start, graph.op("Mod", "choice_places", size, output="choice_place"), output="top_ids")


CHOICE_PREFIX = "choice_"
"""What the names of all results of `choose` begin with, but those of CHOICE."""


def cache_names(kind: str, num_layers: int) -> list[str]:
    """The inputs (`past`, `cross`) or outputs (`present`) that hold keys and values, layer by layer."""
    return [f"{kind}.{index}.{part}" for index in range(num_layers) for part in ("key", "value")]
