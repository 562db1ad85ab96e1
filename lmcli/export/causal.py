"""The fast graph of a causal language model of the Llama family, straight from its weights: no torch.

One graph makes every step, that of a whole prompt and that of one more token for many rows:

- attention is GroupQueryAttention on a cache that is updated in place, each row at its own length; its
  kernels round the same whatever was computed before, so a prompt may be read in any parts;
- hidden states are (tokens, hidden size), and only those of `wanted` tokens reach the output layer;
- the head returns the k best tokens and the log-probabilities of `scored_ids`, so nothing of the size of the
  vocabulary leaves the graph.

For CUDA, where rows cannot be moved by numpy, the graph takes the cache by the row that each row continues
(`parents`) and returns a new one; all rows are of equal length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from lmcli.errors import ExportError
from lmcli.export.graph import MICROSOFT, Tensor
from lmcli.export.layers import ACTIVATIONS, Layers, Weights
from lmcli.export.seq2seq import CHOICE, choose

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"})
"""The model types that have a fast graph."""
SCORED: Mapping[str, Tensor] = {"scored": (FLOAT, ("outputs", "scored"))}


@dataclass(frozen=True, kw_only=True)
class CausalShape:
    """What tells the members of the family apart, besides their weights."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    epsilon: float
    activation: str
    max_positions: int
    frequencies: tuple[float, ...]
    """Of the rotation of positions, in radians per token: (head size / 2,)."""
    rotates: tuple[bool, ...]
    """Which layers know positions at all."""
    window: int | None
    """How many tokens, itself included, a token attends to; None: all before it."""
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    """What the weights of norms lack: Gemma's are stored less 1."""

    @property
    def hidden_size(self) -> int:
        """Of the attention's result, before its output layer."""
        return self.num_heads * self.head_size


def shape_of(config: Mapping[str, Any]) -> CausalShape | None:
    """The shape of a model by its config.json; None where the architecture has no fast graph.

    Raises ExportError for values that make no model.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILY:
        return None
    try:
        shape = _shape(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ExportError(f"config.json makes no {model_type} model: {error!r}") from error
    is_known = shape is not None and shape.activation in ACTIVATIONS and shape.head_size % 16 == 0
    return shape if is_known else None


def _shape(config: Mapping[str, Any]) -> CausalShape | None:
    model_type = config["model_type"]
    num_layers, num_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    head_size = int(config.get("head_dim") or hidden_size // num_heads)
    frequencies = _frequencies(config, head_size)
    if frequencies is None:
        return None
    is_windowed = config.get("sliding_window") and (
        model_type == "mistral" or config.get("use_sliding_window", False)
    )
    if is_windowed and model_type != "mistral":
        return None  # some layers have a window, some have not
    no_rope = config.get("no_rope_layers") or [1] * num_layers
    if model_type == "smollm3" and config.get("no_rope_layers") is None:
        interval = int(config.get("no_rope_layer_interval", 4))
        no_rope = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    is_gemma = model_type == "gemma"
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    return CausalShape(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_size=head_size,
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        # Published configurations of Gemma say gelu and mean its approximation, as transformers knows.
        activation="gelu_pytorch_tanh" if is_gemma else str(activation),
        max_positions=int(config.get("max_position_embeddings", 2048)),
        frequencies=tuple(frequencies.tolist()),
        rotates=tuple(bool(rotates) for rotates in no_rope),
        window=int(config["sliding_window"]) if is_windowed else None,
        embedding_scale=math.sqrt(hidden_size) if is_gemma else 1.0,
        norm_offset=1.0 if is_gemma else 0.0,
    )


def _frequencies(config: Mapping[str, Any], head_size: int) -> npt.NDArray[np.float64] | None:
    """RoFormer's (Su et al. 2021, arXiv:2104.09864), scaled as configured; None: in an unknown way."""
    theta = float(config.get("rope_theta") or 10000.0)
    plain = theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return plain
    if kind == "linear":
        return np.asarray(plain / float(scaling["factor"]))
    if kind != "llama3":
        return None
    # Llama 3.1: waves longer than the context of the training are stretched, short ones stay as they are.
    factor, context = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = context * plain / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(share * plain + (1 - share) * plain / factor)


def rotations(shape: CausalShape, length: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines of each position, (length, head size / 2)."""
    # In float32 as transformers has them: at position 8,000 the rounding of the angle is that of the model.
    frequencies = np.array(shape.frequencies, np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def build_causal(
    layers: Layers, shape: CausalShape, *, context_length: int, in_place: bool
) -> onnx.ModelProto:
    """The graph. With `in_place` it updates the cache, else it returns a new one by `parents`."""
    return _Causal(layers, shape, context_length, in_place=in_place).build()


class _Causal:
    """Tokens stand one behind the other, (tokens, ...); only attention knows rows."""

    def __init__(self, layers: Layers, shape: CausalShape, context_length: int, *, in_place: bool) -> None:
        self._layers = layers
        self._graph = graph = layers.graph
        self._shape = shape
        self._in_place = in_place
        tables = zip(("cosines", "sines"), rotations(shape, context_length), strict=True)
        self._tables = [graph.constant(table, name) for name, table in tables]
        self._rows, self._sequence = layers.size("input_ids", 0), layers.size("input_ids", 1)

    def build(self) -> onnx.ModelProto:
        layers, graph, shape = self._layers, self._graph, self._shape
        ids = graph.op("Reshape", "input_ids", graph.constant([-1]))
        hidden = layers.embed(ids, "model.embed_tokens.weight")
        if shape.embedding_scale != 1:
            hidden = graph.op("Mul", hidden, graph.constant(np.array(shape.embedding_scale, np.float32)))
        last = graph.op("Sub", self._sequence, graph.constant(1))
        self._last = graph.op("Add", "past_length", graph.op("Cast", last, to=INT32))  # (rows,)
        for index in range(shape.num_layers):
            prefix = f"model.layers.{index}."
            x = self._norm(hidden, prefix + "input_layernorm")
            hidden = graph.op("Add", hidden, self._attention(x, prefix + "self_attn.", index))
            x = self._norm(hidden, prefix + "post_attention_layernorm")
            hidden = graph.op("Add", hidden, self._feed_forward(x, prefix + "mlp."))
        hidden = self._norm(graph.op("Gather", hidden, "wanted"), "model.norm")
        choose(graph, layers.linear(hidden, head_of(layers.weights)))
        graph.op("GatherElements", "choice_log_probabilities", "scored_ids", axis=-1, output="scored")
        return graph.model(inputs=self._inputs(), outputs={**CHOICE, **SCORED, **self._cache("present")})

    def _inputs(self) -> Mapping[str, Tensor]:
        place: Mapping[str, Tensor] = (
            {"past_length": (INT32, ("rows",)), "total_length": (INT32, ())}
            if self._in_place
            else {"past_length": (INT32, ("rows",)), "parents": (INT64, ("rows",))}
        )
        return {
            "input_ids": (INT64, ("rows", "sequence")),
            **place,
            "wanted": (INT64, ("outputs",)),
            "scored_ids": (INT64, ("outputs", "scored")),
            "k": (INT64, (1,)),
            **self._cache("past"),
        }

    def _cache(self, kind: str) -> dict[str, Tensor]:
        shape = self._shape
        rows = "rows" if self._in_place or kind == "present" else "parents"
        length = "capacity" if self._in_place else f"{kind}_length_"
        axes = (rows, shape.num_kv_heads, length, shape.head_size)
        return dict.fromkeys(cache_names(kind, shape.num_layers), (FLOAT, axes))

    def _norm(self, x: str, name: str) -> str:
        """Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467) over the last axis."""
        weight = self._layers.weights[name + ".weight"] + np.float32(self._shape.norm_offset)
        scale = self._graph.constant(weight, name)
        return self._graph.op(
            "SimplifiedLayerNormalization", x, scale, epsilon=self._shape.epsilon, axis=-1, stash_type=1
        )

    def _attention(self, x: str, prefix: str, index: int) -> str:
        graph, shape = self._graph, self._shape
        names = cache_names("past", shape.num_layers)[2 * index : 2 * index + 2]
        past = names if self._in_place else [graph.op("Gather", name, "parents", axis=0) for name in names]
        rotates = shape.rotates[index]
        outputs = [f"attended_{index}", *(name.replace("past", "present") for name in names)]
        attended, *_ = graph.ops(
            "GroupQueryAttention",
            *self._queries(x, prefix),
            *past,
            self._last,
            self._total(),
            *(self._tables if rotates else []),
            outputs=outputs,
            domain=MICROSOFT,
            num_heads=shape.num_heads,
            kv_num_heads=shape.num_kv_heads,
            do_rotary=int(rotates),
            **({"local_window_size": shape.window} if shape.window else {}),
        )
        flat = graph.op("Reshape", attended, graph.constant([-1, shape.hidden_size]))
        return self._layers.linear(flat, prefix + "o_proj")

    def _total(self) -> str:
        """The positions that the cache has after the step, int32 ()."""
        if self._in_place:
            return "total_length"
        largest = self._graph.op("ReduceMax", self._last, keepdims=0)
        return self._graph.op("Add", largest, self._graph.constant(np.array(1, np.int32)))

    def _queries(self, x: str, prefix: str) -> list[str]:
        """Queries, keys and values by row: in one, or apart where each head has a norm for them."""
        graph, shape = self._graph, self._shape
        names = [prefix + name for name in ("q_proj", "k_proj", "v_proj")]
        sizes = [heads * shape.head_size for heads in (shape.num_heads, *[shape.num_kv_heads] * 2)]
        packed = self._layers.linear(x, *names)
        if prefix + "q_norm.weight" not in self._layers.weights:
            return [self._by_row(packed, sum(sizes)), "", ""]
        parts = graph.ops(
            "Split", packed, graph.constant(sizes), outputs=[f"{name}_part" for name in names], axis=-1
        )
        for place, norm in enumerate(("q_norm", "k_norm")):
            heads = graph.op("Reshape", parts[place], graph.constant([-1, shape.head_size]))
            parts[place] = self._norm(heads, prefix + norm)
        return [self._by_row(part, size) for part, size in zip(parts, sizes, strict=True)]

    def _by_row(self, x: str, size: int) -> str:
        """(rows, sequence, size) of what stands by token."""
        graph = self._graph
        return graph.op(
            "Reshape", x, graph.op("Concat", self._rows, self._sequence, graph.constant([size]), axis=0)
        )

    def _feed_forward(self, x: str, prefix: str) -> str:
        graph = self._graph
        gate, up = graph.split(self._layers.linear(x, prefix + "gate_proj", prefix + "up_proj"), 2)
        product = graph.op("Mul", self._layers.activate(gate, self._shape.activation), up)
        return self._layers.linear(product, prefix + "down_proj")


def head_of(weights: Weights) -> str:
    """The output layer: one of its own, or the table of embeddings."""
    return "lm_head" if "lm_head.weight" in weights else "model.embed_tokens"


def cache_names(kind: str, num_layers: int) -> list[str]:
    """The inputs (`past`) or outputs (`present`) that hold keys and values, layer by layer."""
    return [f"{kind}.{layer}.{part}" for layer in range(num_layers) for part in ("key", "value")]
