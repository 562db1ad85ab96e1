"""`shape_of`: what tells causal language models with a fast graph apart, besides their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmcli.errors import ExportError
from lmcli.export.layers import ACTIVATIONS
from lmcli.export.rope import Rotation, read_rotation

LLAMAS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text"})
FAMILY = LLAMAS | {"gpt2", "gpt_neox", "opt"}
"""The model types that have a fast graph."""


class Attention(NamedTuple):
    """Which tokens the attention of one layer sees, and how it knows their positions."""

    rotation: Rotation | None
    """None: it knows no positions."""
    window: int | None = None
    """How many tokens, itself included, a token attends to; None: all before it."""


@dataclass(frozen=True, kw_only=True)
class CausalShape:
    """What tells the members of the family apart, besides their weights."""

    attention: tuple[Attention, ...]
    """Of each layer."""
    num_heads: int
    num_kv_heads: int
    head_size: int
    epsilon: float
    activation: str
    max_positions: int
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    """What the weights of norms lack: Gemma's are stored less 1."""
    is_parallel: bool = False
    """Whether the feed-forward layer reads what the attention beside it reads."""
    attention_scale: float = 0.0
    """What products of queries and keys are multiplied with; 0 is 1 / sqrt(head size)."""
    attention_cap: float = 0.0
    """What the scaled products stay below (Gemma 2, arXiv:2408.00118, section 2); 0: anything."""
    logit_cap: float = 0.0
    """The same of logits."""

    @property
    def num_layers(self) -> int:
        """Of attention, each with a feed-forward layer."""
        return len(self.attention)

    @property
    def hidden_size(self) -> int:
        """Of the attention's result, before its output layer."""
        return self.num_heads * self.head_size


class _HasNoFastGraphError(Exception):
    """A setting that the fast graph does not know."""


def shape_of(config: Mapping[str, Any]) -> CausalShape | None:
    """The shape of a model by its config.json; None where the architecture has no fast graph.

    Raises ExportError for values that make no model.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILY:
        return None
    try:
        shape = _llama(config) if model_type in LLAMAS else _own_shape(config)
    except _HasNoFastGraphError:
        return None
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ExportError(f"config.json makes no {model_type} model: {error!r}") from error
    # GroupQueryAttention rotates a multiple of 16 channels.
    sizes = {len(each.rotation.frequencies) for each in shape.attention if each.rotation}
    fits = shape.head_size % 16 == 0 and all(size % 8 == 0 for size in sizes)
    return shape if fits and shape.activation in ACTIVATIONS else None


def _llama(config: Mapping[str, Any]) -> CausalShape:
    """Of a model made like Llama."""
    model_type = config["model_type"]
    config = {**_DEFAULTS.get(model_type, {}), **config}
    if config.get("use_bidirectional_attention"):
        raise _HasNoFastGraphError
    hidden_size, num_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or hidden_size // num_heads)
    is_gemma, query_size = model_type in _GEMMAS, float(config.get("query_pre_attn_scalar") or head_size)
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    return CausalShape(
        attention=_attention(config, head_size),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_size=head_size,
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        # Published configurations of Gemma say gelu and mean its approximation, as transformers knows.
        activation="gelu_pytorch_tanh" if model_type == "gemma" else str(activation),
        max_positions=_max_positions(config),
        embedding_scale=math.sqrt(hidden_size) if is_gemma else 1.0,
        norm_offset=1.0 if is_gemma else 0.0,
        attention_scale=0.0 if query_size == head_size else query_size**-0.5,
        attention_cap=float(config.get("attn_logit_softcapping") or 0),
        logit_cap=float(config.get("final_logit_softcapping") or 0),
    )


_GEMMAS = frozenset({"gemma", "gemma2", "gemma3_text"})
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    "gemma3_text": {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 1e4,
        "rope_theta": 1e6,
        "sliding_window": 4096,
    },
}
"""What transformers takes where the configuration is silent."""


def _attention(config: Mapping[str, Any], head_size: int) -> tuple[Attention, ...]:
    """Of each layer of a model made like Llama."""
    model_type, num_layers = config["model_type"], int(config["num_hidden_layers"])
    everywhere = local = Attention(_rotation(config, head_size))
    is_windowed = _is_windowed(config, num_layers)
    if any(is_windowed):
        theta = config.get("rope_local_base_freq")
        rotation = _rotation({"rope_theta": theta}, head_size) if theta else everywhere.rotation
        local = Attention(rotation, int(config["sliding_window"]))
    rotates = config.get("no_rope_layers") or [1] * num_layers
    if model_type == "smollm3" and config.get("no_rope_layers") is None:
        interval = int(config.get("no_rope_layer_interval", 4))
        rotates = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    layers = [local if has_window else everywhere for has_window in is_windowed]
    return tuple(
        layer if turns else layer._replace(rotation=None)
        for layer, turns in zip(layers, rotates, strict=True)
    )


def _is_windowed(config: Mapping[str, Any], num_layers: int) -> list[bool]:
    """Which layers see a window only."""
    model_type = config["model_type"]
    always = model_type in {"mistral", "gemma2", "gemma3_text"}
    if not config.get("sliding_window") or not (always or config.get("use_sliding_window", False)):
        return [False] * num_layers
    if model_type == "mistral":
        return [True] * num_layers
    if (kinds := config.get("layer_types")) is not None:
        if not set(kinds) <= {"full_attention", "sliding_attention"}:
            raise _HasNoFastGraphError
        return [kind == "sliding_attention" for kind in kinds]
    match model_type:
        case "gemma2":
            return [layer % 2 == 0 for layer in range(num_layers)]
        case "gemma3_text":
            pattern = int(config.get("sliding_window_pattern", 6))
            return [(layer + 1) % pattern != 0 for layer in range(num_layers)]
        case "qwen2" | "qwen3":
            return [layer >= int(config.get("max_window_layers", 28)) for layer in range(num_layers)]
    raise _HasNoFastGraphError


def _rotation(config: Mapping[str, Any], size: int) -> Rotation:
    """Of `size` channels."""
    theta = float(config.get("rope_theta") or 10000.0)
    found = read_rotation(theta, size, config.get("rope_scaling"), _max_positions(config))
    if found is None:
        raise _HasNoFastGraphError
    return found


def _max_positions(config: Mapping[str, Any]) -> int:
    return int(config.get("max_position_embeddings", 2048))


def _own_shape(config: Mapping[str, Any]) -> CausalShape:
    """Of a model that has little in common with Llama."""
    is_gpt2, is_neox = config["model_type"] == "gpt2", config["model_type"] == "gpt_neox"
    if any(config.get(name, usual) != usual for name, usual in _USUAL.items()):
        raise _HasNoFastGraphError
    names = ("n_layer", "n_head", "n_embd") if is_gpt2 else _SIZES
    num_layers, num_heads, hidden_size = (int(config[name]) for name in names)
    if config.get("word_embed_proj_dim", hidden_size) != hidden_size:
        raise _HasNoFastGraphError
    head_size = hidden_size // num_heads
    rotation = None
    if is_neox:
        theta = config.get("rope_theta") or config.get("rotary_emb_base")
        rotation = _rotation({**config, "rope_theta": theta}, int(head_size * config.get("rotary_pct", 0.25)))
    default = "gelu" if is_neox else "gelu_new" if is_gpt2 else "relu"
    activation = config.get("hidden_act") or config.get("activation_function") or default
    return CausalShape(
        attention=(Attention(rotation),) * num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=head_size,
        epsilon=float(config.get("layer_norm_epsilon") or config.get("layer_norm_eps") or 1e-5),
        activation=str(activation),
        max_positions=int(config.get("n_positions" if is_gpt2 else "max_position_embeddings") or _POSITIONS),
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
