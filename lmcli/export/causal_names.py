"""`as_llama`: the weights of GPT-2, GPT-NeoX and OPT under the names that Llama has, and in its form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lmcli.export.causal import TABLE
from lmcli.export.causal_shape import LLAMAS, CausalShape
from lmcli.export.gguf_config import shapes
from lmcli.export.layers import Weights

Floats = npt.NDArray[np.float32]
Change = Callable[[Floats], Floats]
Places = dict[str, tuple[str, Change]]
"""Where a weight is found, and what is done to it, by its name here."""
Shapes = dict[str, tuple[int, ...]]

_OPT_OFFSET = 2  # its table of positions begins with two that nothing has


def as_llama(weights: Weights, model_type: str, shape: CausalShape) -> Weights:
    """The weights, each made when it is asked for; those of a Llama as they are."""
    if model_type in LLAMAS:
        return weights
    places = {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "opt": _opt}[model_type](shape)
    # Published without their head, as GPT-2 was, models lack the first part of the names.
    first = next(iter(places.values()))[0].partition(".")[0] + "."
    if not any(name.startswith(first) for name in weights):
        places = {name: (found.removeprefix(first), change) for name, (found, change) in places.items()}
    return _Renamed(weights, places)


def wanted_shapes(config: Mapping[str, Any], shape: CausalShape, names: Iterable[str]) -> Shapes:
    """The shape of each weight that a model must have, and of the optional ones among `names`.

    Raises KeyError or TypeError for a configuration that says too little.
    """
    model_type = config["model_type"]
    hidden_name, inner_name = _SIZES.get(model_type, ("hidden_size", "intermediate_size"))
    hidden = config[hidden_name]
    facts = {
        **config,
        "hidden_size": hidden,
        "intermediate_size": config.get(inner_name) or 4 * hidden,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", model_type in _TIED)),
    }
    wanted = shapes(facts, names)
    if model_type in LLAMAS:
        return wanted
    wanted = {name: size for name, size in wanted.items() if ".gate_proj." not in name}
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    matrices = {name: size for name, size in wanted.items() if name not in tables}
    biases = {f"{name.rpartition('.')[0]}.bias": size[:1] for name, size in matrices.items()}
    table = {} if model_type == "gpt_neox" else {TABLE: (shape.max_positions, hidden)}
    return wanted | biases | table


_SIZES = {"gpt2": ("n_embd", "n_inner"), "opt": ("hidden_size", "ffn_dim")}
# Where transformers takes the table of embeddings for the output layer unless it is told otherwise.
_TIED = frozenset({"gemma", "gemma2", "gemma3_text", "gpt2", "opt", "smollm3"})


class _Renamed(Mapping[str, Floats]):
    def __init__(self, weights: Weights, places: Places) -> None:
        self._weights = weights
        self._places = {name: place for name, place in places.items() if place[0] in weights}

    def __getitem__(self, name: str) -> Floats:
        found, change = self._places[name]
        return change(self._weights[found])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:  # without this, asking would make the weight
        return name in self._places


def _gpt2(shape: CausalShape) -> Places:
    places: Places = {
        "model.embed_tokens.weight": ("transformer.wte.weight", _same),
        TABLE: ("transformer.wpe.weight", _same),
        "lm_head.weight": ("lm_head.weight", _same),
        **_both("model.norm", "transformer.ln_f"),
    }
    for layer in range(shape.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for part, name in enumerate("qkv"):
            places |= _both(f"{ours}self_attn.{name}_proj", theirs + "attn.c_attn", _third(part))
        places |= {
            **_both(ours + "input_layernorm", theirs + "ln_1"),
            **_both(ours + "post_attention_layernorm", theirs + "ln_2"),
            **_both(ours + "self_attn.o_proj", theirs + "attn.c_proj", np.transpose),
            **_both(ours + "mlp.up_proj", theirs + "mlp.c_fc", np.transpose),
            **_both(ours + "mlp.down_proj", theirs + "mlp.c_proj", np.transpose),
        }
    return places


def _gpt_neox(shape: CausalShape) -> Places:
    places: Places = {
        "model.embed_tokens.weight": ("gpt_neox.embed_in.weight", _same),
        "lm_head.weight": ("embed_out.weight", _same),
        **_both("model.norm", "gpt_neox.final_layer_norm"),
    }
    for layer in range(shape.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"gpt_neox.layers.{layer}."
        for part, name in enumerate("qkv"):
            packed = theirs + "attention.query_key_value"
            places |= _both(f"{ours}self_attn.{name}_proj", packed, _of_heads(part, shape))
        places |= {
            **_both(ours + "input_layernorm", theirs + "input_layernorm"),
            **_both(ours + "post_attention_layernorm", theirs + "post_attention_layernorm"),
            **_both(ours + "self_attn.o_proj", theirs + "attention.dense"),
            **_both(ours + "mlp.up_proj", theirs + "mlp.dense_h_to_4h"),
            **_both(ours + "mlp.down_proj", theirs + "mlp.dense_4h_to_h"),
        }
    return places


def _opt(shape: CausalShape) -> Places:
    places: Places = {
        "model.embed_tokens.weight": ("model.decoder.embed_tokens.weight", _same),
        TABLE: ("model.decoder.embed_positions.weight", lambda table: table[_OPT_OFFSET:]),
        "lm_head.weight": ("lm_head.weight", _same),
        **_both("model.norm", "model.decoder.final_layer_norm"),
    }
    for layer in range(shape.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"model.decoder.layers.{layer}."
        for name in "qkv":
            places |= _both(f"{ours}self_attn.{name}_proj", f"{theirs}self_attn.{name}_proj")
        places |= {
            **_both(ours + "input_layernorm", theirs + "self_attn_layer_norm"),
            **_both(ours + "post_attention_layernorm", theirs + "final_layer_norm"),
            **_both(ours + "self_attn.o_proj", theirs + "self_attn.out_proj"),
            **_both(ours + "mlp.up_proj", theirs + "fc1"),
            **_both(ours + "mlp.down_proj", theirs + "fc2"),
        }
    return places


def _same(weight: Floats) -> Floats:
    return weight


def _both(ours: str, theirs: str, change: Change = _same) -> Places:
    """Weight and bias."""
    return {f"{ours}.{part}": (f"{theirs}.{part}", change) for part in ("weight", "bias")}


def _third(part: int) -> Change:
    """Queries, keys or values of a product that has all three side by side: (in, 3 * out) or (3 * out,)."""
    return lambda weight: np.split(weight, 3, axis=-1)[part].T


def _of_heads(part: int, shape: CausalShape) -> Change:
    """The same of one that has them head by head: (heads * 3 * head size, in) or without `in`."""
    axes = (shape.num_heads, 3, shape.head_size)

    def change(weight: Floats) -> Floats:
        heads = weight.reshape(*axes, *weight.shape[1:])[:, part]
        return heads.reshape(-1, *weight.shape[1:])

    return change
