"""The fast graph of a causal language model, straight from its weights: no torch.

All parts have the names that Llama has for them; export/causal_names.py gives them to GPT-2 and others. Which
of the parts there are decides what is computed: norms with a bias, tables of positions, gates.

One graph makes every step, that of a whole prompt and that of one more token for many rows:

- attention is GroupQueryAttention on a cache that is updated in place, each row at its own length; its
  kernels round the same whatever was computed before, so a prompt may be read in any parts;
- hidden states are (tokens, hidden size), and only those of `wanted` tokens reach the output layer;
- the head returns the k best tokens and the log-probabilities of `scored_ids`, so nothing of the size of the
  vocabulary leaves the graph.

For CUDA, where rows cannot be moved by numpy, the graph takes the cache by the row that each row continues
(`parents`) and returns a new one, longer by what it has read; all rows are of equal length. There,
GroupQueryAttention takes several tokens of several rows only at the beginning.
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
from lmcli.export.choice import CHOICE, choose
from lmcli.export.graph import MICROSOFT, Tensor
from lmcli.export.layers import ACTIVATIONS, Layers, Weights, cache_names
from lmcli.export.quantize import POSITIONS

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

LLAMAS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"})
FAMILY = LLAMAS | {"gpt2", "gpt_neox", "opt"}
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
    """Of the rotation of positions, in radians per token, for pairs of a head's first channels."""
    rotates: tuple[bool, ...]
    """Which layers know positions at all."""
    window: int | None
    """How many tokens, itself included, a token attends to; None: all before it."""
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    """What the weights of norms lack: Gemma's are stored less 1."""
    is_parallel: bool = False
    """Whether the feed-forward layer reads what the attention beside it reads."""

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
        shape = _shape(config) if model_type in LLAMAS else _own_shape(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ExportError(f"config.json makes no {model_type} model: {error!r}") from error
    if shape is None or shape.activation not in ACTIVATIONS:
        return None
    # GroupQueryAttention rotates a multiple of 16 channels.
    return shape if shape.head_size % 16 == len(shape.frequencies) % 8 == 0 else None


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


def _own_shape(config: Mapping[str, Any]) -> CausalShape | None:
    """Of a model that has little in common with Llama."""
    is_gpt2, is_neox = config["model_type"] == "gpt2", config["model_type"] == "gpt_neox"
    if any(config.get(name, usual) != usual for name, usual in _USUAL.items()):
        return None
    names = ("n_layer", "n_head", "n_embd") if is_gpt2 else _SIZES
    num_layers, num_heads, hidden_size = (int(config[name]) for name in names)
    if config.get("word_embed_proj_dim", hidden_size) != hidden_size:
        return None
    head_size = hidden_size // num_heads
    theta = config.get("rope_theta") or config.get("rotary_emb_base")
    num_rotated = int(head_size * config.get("rotary_pct", 0.25)) if is_neox else 0
    frequencies = _frequencies({**config, "rope_theta": theta}, num_rotated)
    if frequencies is None:
        return None
    default = "gelu" if is_neox else "gelu_new" if is_gpt2 else "relu"
    activation = config.get("hidden_act") or config.get("activation_function") or default
    return CausalShape(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=head_size,
        epsilon=float(config.get("layer_norm_epsilon") or config.get("layer_norm_eps") or 1e-5),
        activation=str(activation),
        max_positions=int(config.get("n_positions" if is_gpt2 else "max_position_embeddings") or _POSITIONS),
        frequencies=tuple(frequencies.tolist()),
        rotates=(is_neox,) * num_layers,
        window=None,
        is_parallel=is_neox and bool(config.get("use_parallel_residual", True)),
    )


_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size")
_POSITIONS = 1024
_USUAL: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": True,
    "do_layer_norm_before": True,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
}
"""Settings of GPT-2, GPT-NeoX and OPT that have a fast graph."""


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
        self._tables = [graph.constant(table, name) for name, table in tables if any(shape.rotates)]
        self._rows, self._sequence = graph.size("input_ids", 0), graph.size("input_ids", 1)

    def build(self) -> onnx.ModelProto:
        layers, graph, shape = self._layers, self._graph, self._shape
        ids = graph.op("Reshape", "input_ids", graph.constant([-1]))
        hidden = layers.embed(ids, "model.embed_tokens.weight")
        if shape.embedding_scale != 1:
            hidden = graph.op("Mul", hidden, graph.constant(np.array(shape.embedding_scale, np.float32)))
        self._last, self._total = self._lengths()
        if TABLE in layers.weights:
            hidden = graph.op("Add", hidden, self._positions())
        for index in range(shape.num_layers):
            hidden = self._layer(hidden, f"model.layers.{index}.", index)
        hidden = self._norm(graph.op("Gather", hidden, "wanted"), "model.norm")
        choose(graph, layers.linear(hidden, head_of(layers.weights)))
        graph.op("GatherElements", "choice_log_probabilities", "scored_ids", axis=-1, output="scored")
        return graph.model(inputs=self._inputs(), outputs={**CHOICE, **SCORED, **self._cache("present")})

    def _positions(self) -> str:
        """What a table has for the position of each token."""
        graph = self._graph
        first = graph.op("Sub", graph.op("Cast", self._last, to=INT64), self._sequence)  # less 1, (rows,)
        end = graph.op("Add", graph.op("Squeeze", self._sequence), graph.constant(1))
        counts = graph.op("Range", graph.constant(1), end, graph.constant(1))
        positions = graph.op("Add", graph.op("Unsqueeze", first, graph.constant([1])), counts)
        table = graph.constant(self._layers.weights[TABLE], POSITIONS)
        return graph.op("Gather", table, graph.op("Reshape", positions, graph.constant([-1])))

    def _layer(self, hidden: str, prefix: str, index: int) -> str:
        graph = self._graph
        x = self._norm(hidden, prefix + "input_layernorm")
        attended = graph.op("Add", hidden, self._attention(x, prefix + "self_attn.", index))
        x = self._norm(hidden if self._shape.is_parallel else attended, prefix + "post_attention_layernorm")
        return graph.op("Add", attended, self._feed_forward(x, prefix + "mlp."))

    def _inputs(self) -> Mapping[str, Tensor]:
        place: Mapping[str, Tensor] = (
            {"past_length": (INT32, ("rows",)), "total_length": (INT32, ())}
            if self._in_place
            else {"parents": (INT64, ("rows",))}
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
        rows = "rows" if self._in_place or kind == "present" else "past_rows"
        length = "capacity" if self._in_place else f"{kind}_length"
        axes = (rows, shape.num_kv_heads, length, shape.head_size)
        return dict.fromkeys(cache_names(kind, shape.num_layers), (FLOAT, axes))

    def _norm(self, x: str, name: str) -> str:
        shape = self._shape
        return self._layers.norm(x, name, shape.epsilon, offset=shape.norm_offset)

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
            self._total,
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

    def _lengths(self) -> tuple[str, str]:
        """The last position of each row, (rows,), and how many the cache has after the step, (); int32."""
        layers, graph = self._layers, self._graph
        if not self._in_place:
            past = graph.size(cache_names("past", 1)[0], 2)
            return layers.row_lengths(self._rows, graph.op("Add", past, self._sequence))
        new = graph.op("Cast", graph.op("Sub", self._sequence, graph.constant(1)), to=INT32)
        return graph.op("Add", "past_length", new), "total_length"

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
        if prefix + "gate_proj.weight" not in self._layers.weights:
            up = self._layers.linear(x, prefix + "up_proj")
            return self._layers.linear(
                self._layers.activate(up, self._shape.activation), prefix + "down_proj"
            )
        gate, up = graph.split(self._layers.linear(x, prefix + "gate_proj", prefix + "up_proj"), 2)
        product = graph.op("Mul", self._layers.activate(gate, self._shape.activation), up)
        return self._layers.linear(product, prefix + "down_proj")


TABLE = "model.embed_positions.weight"
"""What is added to the embedding of a token at each position, in models that have such a table."""


def head_of(weights: Weights) -> str:
    """The output layer: one of its own, or the table of embeddings."""
    return "lm_head" if "lm_head.weight" in weights else "model.embed_tokens"
