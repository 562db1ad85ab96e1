"""`shape_of`: the sizes of an encoder-decoder and where its parts are in a checkpoint; `read_weights`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lmcli.export.layers import ACTIVATIONS, Weights
from lmcli.export.quantize import POSITIONS


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
