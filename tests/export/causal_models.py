"""Tiny random causal models of every architecture with a fast graph, as transformers makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lmcli.engine.causal import Causal
from lmcli.engine.devices import Device
from lmcli.engine.prefixes import PrefixStore
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import Tokenizer
from lmcli.export.causal import build_causal
from lmcli.export.causal_shape import CausalShape, shape_of
from lmcli.export.layers import Layers, Weights
from lmcli.export.quantize import quantize
from lmcli.export.rotate import rotate

VOCAB_SIZE, EOS, CONTEXT = 120, 2, 256
_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "llama 3.1": ("llama", {"rope_scaling": _LLAMA3, "rope_theta": 500000.0}),
    "llama stretched": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama by YaRN": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}),
    "gemma": ("gemma", {"head_dim": 32, "hidden_act": "gelu_pytorch_tanh"}),
    "gemma2": (
        "gemma2",
        {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 8,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
}
"""A model type and its settings by the name of the test."""


def make_model(name: str, **more: Any) -> Any:
    """A model with biases and norms that are not just 0 and 1; `more` are settings of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = MODELS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**_COMMON, **settings, **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for key, parameter in model.named_parameters():
        if key.endswith((".bias", "norm.weight")):
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.2)
    return model


def weights_of(model: Any) -> Weights:
    """All weights by name; no output layer where it is the table of embeddings."""
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def shape(model: Any) -> CausalShape:
    found = shape_of(model.config.to_dict())
    assert found is not None
    return found


def build(
    model: Any,
    folder: Path,
    *,
    int8: bool = False,
    threads: int = 1,
    threads_each: int = 1,
    prefixes: PrefixStore | None = None,
) -> Causal:
    """The engine for a model."""
    weights, facts = weights_of(model), shape(model)
    layers = Layers(rotate(weights, facts) if int8 else weights)
    graph = build_causal(layers, facts, context_length=CONTEXT, in_place=True)
    if int8:
        quantize(graph)
    path = folder / "model.onnx"
    onnx.save(graph, path)
    session = Session(path, Device("cpu", threads_each=threads_each))
    return Causal(session, NoTokenizer(), vocab_size=VOCAB_SIZE, threads=threads, prefixes=prefixes)


class NoTokenizer(Tokenizer):
    """Tokens are letters."""

    def __init__(self) -> None:
        self.context_length = CONTEXT

    def decode(self, rows: Any) -> list[str]:
        return ["".join(chr(0x4E00 + token) for token in row) for row in rows]


def random_prompts(lengths: list[int], *, same: int = 0) -> list[Any]:
    """Prompts of these lengths; the first `same` tokens are the same in all."""
    rng = np.random.default_rng(0)
    start = rng.integers(3, VOCAB_SIZE, same)
    return [np.concatenate([start, rng.integers(3, VOCAB_SIZE, length - same)]) for length in lengths]
