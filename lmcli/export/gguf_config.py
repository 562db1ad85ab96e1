"""`read_config`: the metadata of a GGUF file as a Hugging Face configuration; `shapes`: those of its weights.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and of llama.cpp's converter.
What llama.cpp knows of an architecture without being told stands here as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from lmcli.errors import ExportError
from lmcli.export.gguf_file import GET_AGAIN, Container
from lmcli.export.rope import read_rotation

Config = dict[str, Any]
T = TypeVar("T")

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_MODEL_TYPES = {name: name for name in ("llama", "qwen2", "qwen3", "smollm3", "gemma", "gemma2")} | {
    "gemma3": "gemma3_text"
}
"""By the architectures of GGUF."""
_MAX_LAYERS = 1024
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of all models that Meta published with the scaling of Llama 3.1."""


def read_config(container: Container) -> Config:
    """What config.json would say.

    Raises ExportError for an architecture that lmcli does not know, and for facts that are missing or absurd.
    """
    architecture = container.need("general.architecture", str)
    if architecture not in _MODEL_TYPES:
        raise ExportError(
            f"{container.path}: the architecture {architecture!r} is not one that lmcli reads from GGUF",
            hint=f"it knows {', '.join(_MODEL_TYPES)}",
        )
    facts = _Facts(container, architecture)
    if facts.count("expert_count"):
        raise ExportError(
            f"{container.path} is a mixture of experts, which lmcli does not run", hint="choose a dense model"
        )
    model_type = _model_type(facts, architecture)
    config = {"model_type": model_type, "architectures": [_CLASSES[model_type]], **_common(facts)}
    return config | _own(model_type, facts, config)


class _Facts:
    """The metadata of one architecture: keys are written without its name."""

    def __init__(self, container: Container, architecture: str) -> None:
        self.container = container
        self._architecture = architecture

    def error(self, message: str) -> ExportError:
        return ExportError(f"{self.container.path}: {message}", hint=GET_AGAIN)

    def size(self, key: str, default: int | None = None) -> int:
        """A number above 0. Raises ExportError when it is not."""
        value = self._get(key, int, default)
        if value < 1:
            raise self.error(f"{self._architecture}.{key} is {value}")
        return value

    def count(self, key: str) -> int:
        """A number that is 0 where the file does not say it."""
        return self._get(key, int, 0)

    def real(self, key: str, default: float | None = None) -> float:
        """As it was written before it became a float32: 1e-05, not 9.999999747378752e-06."""
        return float(str(np.float32(self._get(key, float, default))))

    def text(self, key: str, default: str) -> str:
        return self._get(key, str, default)

    def has(self, tensor: str) -> bool:
        return tensor in self.container.tensors

    def token(self, name: str) -> int | None:
        """The id of a special token."""
        return self.container.fact(f"tokenizer.ggml.{name}_token_id", int)

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        full = f"{self._architecture}.{key}"
        if default is None:
            return self.container.need(full, kind)
        value = self.container.fact(full, kind)
        return default if value is None else value


def _model_type(facts: _Facts, architecture: str) -> str:
    # Mistral is a Llama to llama.cpp; a window of attention is what tells it apart.
    is_mistral = architecture == "llama" and facts.count("attention.sliding_window")
    return "mistral" if is_mistral else _MODEL_TYPES[architecture]


def _common(facts: _Facts) -> Config:
    num_heads, hidden_size = facts.size("attention.head_count"), facts.size("embedding_length")
    head_size = facts.size("attention.key_length", hidden_size // num_heads)
    num_kv_heads = facts.size("attention.head_count_kv", num_heads)
    if num_heads % num_kv_heads:
        raise facts.error(f"{num_heads} heads of queries cannot share {num_kv_heads} of keys")
    if head_size % 2:
        raise facts.error(f"a head has {head_size} values, which cannot be rotated in pairs")
    for key in ("attention.value_length", "rope.dimension_count"):
        if facts.size(key, head_size) != head_size:
            raise facts.error(f"{key} is not the size of a head, {head_size}, which lmcli does not run")
    num_layers = facts.size("block_count")
    if num_layers > _MAX_LAYERS:
        raise facts.error(f"it says that it has {num_layers} layers")
    embeddings = facts.container.tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise facts.error("it has no table of token embeddings")
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_size,
        "intermediate_size": facts.size("feed_forward_length"),
        "hidden_act": "silu",
        "rms_norm_eps": facts.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": facts.real("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(facts, head_size),
        "max_position_embeddings": facts.size("context_length"),
        "vocab_size": embeddings.shape[0],
        "tie_word_embeddings": not facts.has("output.weight"),
        "attention_bias": facts.has("blk.0.attn_q.bias"),
        "mlp_bias": facts.has("blk.0.ffn_down.bias"),
        "sliding_window": facts.count("attention.sliding_window") or None,
        "bos_token_id": facts.token("bos"),
        "eos_token_id": facts.token("eos"),
        "pad_token_id": facts.token("padding"),
    }


def _rope_scaling(facts: _Facts, head_size: int) -> Config | None:
    kind = facts.text("rope.scaling.type", "none")
    factors = facts.container.tensors.get("rope_freqs.weight")
    if factors is not None:
        if kind != "none" or factors.kind != GGMLQuantizationType.F32 or factors.shape != (head_size // 2,):
            raise facts.error(
                "rope_freqs.weight is not all that scales rotations, a float32 for each frequency"
            )
        return _llama3_scaling(facts, factors.rows.view("<f4").astype(np.float64), head_size)
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": facts.real("rope.scaling.factor")}
    if kind == "yarn":
        context = facts.size("rope.scaling.original_context_length")
        factor = facts.real("rope.scaling.factor")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    raise facts.error(f"rotations of positions are scaled in an unknown way, {kind!r}")


def _llama3_scaling(facts: _Facts, factors: npt.NDArray[np.float64], head_size: int) -> Config:
    """The scaling of Llama 3.1, of which the file has the divisor of each frequency only: (head size / 2,).

    The formula is that of llama.cpp's converter and of transformers' `_compute_llama3_parameters`.
    """
    scaling = {"rope_type": "llama3", "factor": float(str(np.float32(factors.max(initial=1)))), **_LLAMA3}
    theta = facts.real("rope.freq_base", 10000.0)
    plain, scaled = (read_rotation(theta, head_size, kind, 0) for kind in (None, scaling))
    assert plain is not None
    assert scaled is not None
    if not np.allclose(factors, np.divide(plain.frequencies, scaled.frequencies), rtol=1e-3):
        raise facts.error("frequencies of positions are scaled in another way than Llama's")
    return scaling


def _own(model_type: str, facts: _Facts, config: Config) -> Config:
    """What only some architectures have."""
    match model_type:
        case "smollm3":
            # llama.cpp has the number 4 in its code, as transformers has it in its defaults.
            layers = range(1, config["num_hidden_layers"] + 1)
            return {"no_rope_layer_interval": 4, "no_rope_layers": [int(layer % 4 != 0) for layer in layers]}
        case "gemma":
            return _GELU
        case "gemma2":
            return _GELU | {
                "attn_logit_softcapping": facts.real("attn_logit_softcapping", 50.0),
                "final_logit_softcapping": facts.real("final_logit_softcapping", 30.0),
                "sliding_window": facts.size("attention.sliding_window", 4096),
                "query_pre_attn_scalar": _query_scalar(config, num_layers_27b=46),
            }
        case "gemma3_text":
            return _GELU | {
                "rope_theta": facts.real("rope.freq_base", 1e6),
                "rope_local_base_freq": 10000.0,  # as in llama.cpp, and in all that Google published
                "sliding_window": facts.size("attention.sliding_window"),
                "sliding_window_pattern": 6,
                "query_pre_attn_scalar": _query_scalar(config, num_layers_27b=62),
            }
    return {}


_GELU: Config = dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh")


def _query_scalar(config: Config, *, num_layers_27b: int) -> int:
    """What queries are divided by the root of: the size of a head, but for the largest model of a generation.

    llama.cpp knows that one by its layers, too.
    """
    if config["num_hidden_layers"] == num_layers_27b:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def shapes(config: Config, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight that a model of `config` has, and of the optional ones among `names`."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    linear = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if config["model_type"] in {"gemma2", "gemma3_text"}:
        norms |= {"pre_feedforward_layernorm": hidden, "post_feedforward_layernorm": hidden}
    if config["model_type"] in {"qwen3", "gemma3_text"}:
        norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    given = set(names)
    wanted: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        wanted["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        wanted |= {f"{prefix}{name}.weight": shape for name, shape in linear.items()}
        wanted |= {f"{prefix}{name}.weight": (size,) for name, size in norms.items()}
        biases = {f"{prefix}{name}.bias": shape[:1] for name, shape in linear.items()}
        wanted |= {name: shape for name, shape in biases.items() if name in given}
    return wanted
