"""GGUF files of tiny models, written by the test that needs one as llama.cpp's converter writes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as ValueType

Floats = npt.NDArray[np.float32]

# 256 columns, as the K-quants have blocks of that size.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "max_position_embeddings": 128,
    "vocab_size": 40,
}
TOKENS = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(97, 97 + 26)), *"0123456789", "▁"]


def random_weights(
    config: Mapping[str, Any] = LLAMA, *, tied: bool = True, seed: int = 0
) -> dict[str, Floats]:
    """Weights of a Llama by Hugging Face's names."""
    rng = np.random.default_rng(seed)
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not tied:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (queries, hidden),
            f"{prefix}self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, queries),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
        }
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def metadata(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What the converter writes of a configuration."""
    facts = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(config["rope_theta"]),
    }
    return {f"{architecture}.{key}": value for key, value in facts.items()} | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [float(-index) for index in range(len(TOKENS))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (len(TOKENS) - 3),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def write_gguf(
    path: Path,
    config: Mapping[str, Any] = LLAMA,
    weights: Mapping[str, Floats] | None = None,
    *,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    changes: Mapping[str, Any] | None = None,
    extra: Mapping[str, npt.NDArray[Any]] | None = None,
    extra_kind: Kind | None = None,
    big_endian: bool = False,
) -> dict[str, Floats]:
    """Write a model, its matrices quantized; what of the weights is left, by Hugging Face's names.

    changes: other metadata; None leaves a key out. extra: tensors as they are, by their names in the file.
    """
    endian = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    for key, value in (metadata(config, architecture) | dict(changes or {})).items():
        if value is not None:
            writer.add_key_value(key, value, *_value_type(value))
    left: dict[str, Floats] = {}
    for name, weight in (random_weights(config) if weights is None else weights).items():
        tensor = _converted(name, weight, config, architecture)
        used = kind if tensor.ndim == 2 else Kind.F32
        rows = quantize(tensor, used)
        left[name] = _reverted(name, gguf.quants.dequantize(rows, used), config, architecture)
        writer.add_tensor(_renamed(name, config, architecture), rows, raw_dtype=used)
    for name, weight in (extra or {}).items():
        writer.add_tensor(name, weight, raw_dtype=extra_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return left


def quantize(weight: Floats, kind: Kind) -> npt.NDArray[Any]:
    """Rows of a type; for those that the `gguf` package cannot write, any bytes that make small numbers."""
    try:
        quantized: npt.NDArray[Any] = gguf.quants.quantize(weight, kind)
    except NotImplementedError:
        size = gguf.quants.quant_shape_to_byte_shape(weight.shape, kind)
        # As float16 these are below 1, wherever in a block there is one.
        quantized = np.random.default_rng(len(weight)).integers(0, 0x3C, size, dtype=np.uint8)
    return quantized


def header(num_tensors: int, num_facts: int, *rest: bytes, version: int = 3) -> bytes:
    """A file by hand."""
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_facts) + b"".join(rest)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _value_type(value: Any) -> tuple[ValueType, ValueType | None]:
    if isinstance(value, list):
        return ValueType.ARRAY, _value_type(value[0])[0]
    kinds = {bool: ValueType.BOOL, int: ValueType.INT32, float: ValueType.FLOAT32, str: ValueType.STRING}
    return kinds[type(value)], None


def _renamed(name: str, config: Mapping[str, Any], architecture: str) -> str:
    """The name that the `gguf` package has for it."""
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, name
    return found


def _num_heads(name: str, config: Mapping[str, Any], architecture: str) -> int | None:
    """Of projections whose rows llama.cpp has in another order."""
    if architecture not in {"llama", "smollm3"}:
        return None
    if ".q_proj." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".k_proj." in name else None


def _converted(name: str, weight: Floats, config: Mapping[str, Any], architecture: str) -> Floats:
    if heads := _num_heads(name, config, architecture):
        # `permute` of llama.cpp's conversion/llama.py
        apart = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return np.ascontiguousarray(apart.swapaxes(1, 2).reshape(weight.shape))
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + np.float32(1)
    return np.ascontiguousarray(weight)


def _reverted(name: str, weight: Floats, config: Mapping[str, Any], architecture: str) -> Floats:
    if heads := _num_heads(name, config, architecture):
        # `_reverse_permute_weights` of transformers' modeling_gguf_pytorch_utils.py
        together = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
        return together.swapaxes(2, 1).reshape(weight.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight - np.float32(1)
    return weight


def strings(values: Sequence[str]) -> bytes:
    """An array of strings, as a value."""
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(text(value.encode()) for value in values)
