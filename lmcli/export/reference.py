"""`logits`: a causal model of the Llama family in plain numpy, to prove graphs against without torch.

It is written for reading, from the definition of the model: every position attends to all before it, nothing
is cached. tests/export/test_causal.py compares it with transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from lmcli.export.causal import TABLE, has_norms_behind, head_of
from lmcli.export.causal_shape import Attention, CausalShape
from lmcli.export.layers import Weights

Floats = npt.NDArray[np.float32]


def logits(weights: Weights, shape: CausalShape, input_ids: npt.NDArray[np.int64]) -> Floats:
    """What the model thinks may follow each token: (tokens,) to (tokens, vocabulary)."""
    hidden = weights["model.embed_tokens.weight"][input_ids] * np.float32(shape.embedding_scale)
    if TABLE in weights:
        hidden = hidden + weights[TABLE][: len(input_ids)]
    for index, attention in enumerate(shape.attention):
        layer = f"model.layers.{index}."
        x = _norm(hidden, weights, layer + "input_layernorm", shape)
        x = _attention(x, weights, layer + "self_attn.", shape, attention)
        if has_norms_behind(weights):
            hidden = hidden + _norm(x, weights, layer + "post_attention_layernorm", shape)
            x = _norm(hidden, weights, layer + "pre_feedforward_layernorm", shape)
            x = _feed_forward(x, weights, layer + "mlp.", shape)
            hidden = hidden + _norm(x, weights, layer + "post_feedforward_layernorm", shape)
        else:
            read = hidden if shape.is_parallel else hidden + x
            read = _norm(read, weights, layer + "post_attention_layernorm", shape)
            hidden = hidden + x + _feed_forward(read, weights, layer + "mlp.", shape)
    found = _linear(_norm(hidden, weights, "model.norm", shape), weights, head_of(weights))
    return _capped(found, shape.logit_cap)


def _capped(x: Floats, cap: float) -> Floats:
    """Below a cap, if there is one."""
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap else x


def _norm(x: Floats, weights: Weights, name: str, shape: CausalShape) -> Floats:
    """To a root mean square of 1; with a bias, around a mean of 0."""
    if name + ".bias" in weights:
        x = x - x.mean(axis=-1, keepdims=True)
    mean = np.mean(x**2, axis=-1, keepdims=True)
    scaled: Floats = x / np.sqrt(mean + np.float32(shape.epsilon))
    scaled = scaled * (weights[name + ".weight"] + np.float32(shape.norm_offset))
    return scaled + weights[name + ".bias"] if name + ".bias" in weights else scaled


def _feed_forward(x: Floats, weights: Weights, prefix: str, shape: CausalShape) -> Floats:
    activate = _ACTIVATIONS[shape.activation]
    up = _linear(x, weights, prefix + "up_proj")
    if prefix + "gate_proj.weight" in weights:
        up = activate(_linear(x, weights, prefix + "gate_proj")) * up
    else:
        up = activate(up)
    return _linear(up, weights, prefix + "down_proj")


def _linear(x: Floats, weights: Weights, name: str) -> Floats:
    product: Floats = x @ weights[name + ".weight"].T
    return product + weights[name + ".bias"] if name + ".bias" in weights else product


def _attention(x: Floats, weights: Weights, prefix: str, shape: CausalShape, attention: Attention) -> Floats:
    length = len(x)
    queries, keys, values = (
        _linear(x, weights, f"{prefix}{name}_proj").reshape(length, -1, shape.head_size).swapaxes(0, 1)
        for name in "qkv"
    )  # (heads, length, head size) each
    if prefix + "q_norm.weight" in weights:
        queries = _norm(queries, weights, prefix + "q_norm", shape)
        keys = _norm(keys, weights, prefix + "k_norm", shape)
    if attention.rotation:
        cosines, sines = attention.rotation.tables(length)
        queries, keys = _rotate(queries, cosines, sines), _rotate(keys, cosines, sines)
    groups = shape.num_heads // shape.num_kv_heads
    keys, values = np.repeat(keys, groups, axis=0), np.repeat(values, groups, axis=0)
    scale = shape.attention_scale or shape.head_size**-0.5
    scores = _capped(queries @ keys.swapaxes(1, 2) * np.float32(scale), shape.attention_cap)
    distance = np.arange(length)[:, None] - np.arange(length)
    is_seen = (distance >= 0) & (distance < (attention.window or length))
    scores = np.where(is_seen, scores, np.float32(-np.inf))
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return _linear((shares @ values).swapaxes(0, 1).reshape(length, -1), weights, prefix + "o_proj")


def _rotate(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Turn pairs of channels, as far apart as there are pairs, by the angle of their position."""
    pairs = cosines.shape[1]
    first, second, rest = np.split(x, [pairs, 2 * pairs], axis=-1)
    rotated: Floats = np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines, rest], axis=-1
    )
    return rotated


def _silu(x: Floats) -> Floats:
    result: Floats = x / (1 + np.exp(-x))
    return result


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def _gelu(x: Floats) -> Floats:
    result: Floats = 0.5 * x * (1 + _ERF(x / math.sqrt(2)).astype(np.float32))
    return result


_ERF = np.frompyfunc(math.erf, 1, 1)


def _tanh_gelu(x: Floats) -> Floats:
    """The approximation with the hyperbolic tangent."""
    result: Floats = 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + 0.044715 * x**3)))
    return result


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "gelu": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": _relu,
    "silu": _silu,
    "swish": _silu,
    "tanh": np.tanh,
}
