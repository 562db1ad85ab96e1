"""`read_gguf`: a causal language model in a GGUF file, under the names that Hugging Face has for all of it.

`GgufFile.config` is what config.json would say, `weights` are those of the checkpoint that the file was made
from, as far as its quantization left them, and `blocks` keeps that quantization as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from lmcli.errors import ExportError
from lmcli.export.gguf_blocks import Blocks, keep_blocks
from lmcli.export.gguf_config import Config, read_config, shapes
from lmcli.export.gguf_file import GET_AGAIN, UNKNOWN_TYPE, Bytes, Container, RawTensor, open_gguf

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma's later generations have norms on both sides of either part.
_INSIDE_SANDWICHED = _INSIDE | {"ffn_norm": "pre_feedforward_layernorm"}
_SANDWICHED = frozenset({"gemma2", "gemma3"})
# llama.cpp turns neighbouring rows of queries and keys by a position, Hugging Face those half a head apart.
_INTERLEAVED = frozenset({"llama", "smollm3"})
_GEMMA = frozenset({"gemma", "gemma2", "gemma3"})
_LEFT_OUT = frozenset({"rope_freqs.weight"})  # the configuration tells of it


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A model in a GGUF file; `read_gguf` makes sure that it is complete."""

    container: Container
    config: Config
    """What config.json would say."""
    tensors: Mapping[str, RawTensor]
    """By the names of Hugging Face, otherwise as they stand in the file."""

    @property
    def weights(self) -> Mapping[str, Floats]:
        """The weights in float32, each made when it is asked for; no `lm_head.weight` where it is tied."""
        return _Weights(self)

    def blocks(self, name: str) -> Blocks | None:
        """The matrix `name` as it was quantized; None where there is none, or it was in another way."""
        tensor = self.tensors.get(name)
        if tensor is None or len(tensor.shape) != 2:
            return None
        return keep_blocks(self.rows(name), tensor.kind)

    def rows(self, name: str) -> Bytes:
        """The bytes of a tensor, row by row in the order of Hugging Face."""
        rows = self.tensors[name].rows
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        if self._architecture not in _INTERLEAVED or heads is None:
            return rows
        # A bias is one row to GGUF, and a row of its own for each value to this.
        by_value = rows.reshape(self.tensors[name].shape[0], -1)
        return by_value[_order(len(by_value), self.config[heads])].reshape(rows.shape)

    def weight(self, name: str) -> Floats:
        """One tensor in float32."""
        tensor = self.tensors[name]
        values: Floats = gguf.quants.dequantize(self.rows(name), tensor.kind).reshape(tensor.shape)
        if self._architecture in _GEMMA and name.endswith("norm.weight"):
            return values - np.float32(1)  # llama.cpp has 1 + weight, as Gemma multiplies with it
        return np.array(values, np.float32)  # a copy: the file may be closed, or have them at odd addresses

    @cached_property
    def _architecture(self) -> str:
        return self.container.need("general.architecture", str)


class _Weights(Mapping[str, Floats]):
    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Floats:
        return self._file.weight(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.tensors)

    def __len__(self) -> int:
        return len(self._file.tensors)

    def __contains__(self, name: object) -> bool:  # without this, asking would make the weight
        return name in self._file.tensors


def _order(num_rows: int, num_heads: int) -> npt.NDArray[np.int64]:
    """Undo `permute` of llama.cpp's converter: of each head, rows 0, 2, 4 ... come before 1, 3, 5 ..."""
    return np.arange(num_rows).reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def read_gguf(path: Path) -> GgufFile:
    """Open a model; its weights stay in the file until they are used.

    Raises ExportError for what is no GGUF file, damaged, incomplete, one of several parts, or of an
    architecture or quantization that lmcli does not read.
    """
    container = open_gguf(path)
    _check_kind(container)
    config = read_config(container)
    architecture = container.need("general.architecture", str)
    tensors = _rename(container, _INSIDE_SANDWICHED if architecture in _SANDWICHED else _INSIDE)
    _check_shapes(path, tensors, config)
    for name, tensor in tensors.items():
        _check_type(path, name, tensor)
    return GgufFile(container=container, config=config, tensors=tensors)


def _check_kind(container: Container) -> None:
    """Raises ExportError for files that are a part of a model, or something besides one."""
    kind = container.fact("general.type", str) or "model"
    if kind != "model":
        raise ExportError(
            f"{container.path} is no model but of the type {kind!r}",
            hint="export the file of the model that it belongs to",
        )
    if (count := container.fact("split.count", int) or 1) > 1:
        raise ExportError(
            f"{container.path} is one of {count} parts of a model",
            hint="put them together: llama-gguf-split --merge",
        )


def _rename(container: Container, inside: Mapping[str, str]) -> dict[str, RawTensor]:
    """The tensors under their names in Hugging Face's models."""
    found: dict[str, RawTensor] = {}
    for name, tensor in container.tensors.items():
        if name in _LEFT_OUT:
            continue
        renamed = _renamed(name, inside)
        if renamed is None:
            raise ExportError(
                f"{container.path} has a tensor that its architecture has no place for: {name!r}",
                hint="please report the model: lmcli cannot read it faithfully",
            )
        found[renamed] = tensor
    return found


def _renamed(name: str, inside: Mapping[str, str]) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in inside:
        return None
    return f"model.layers.{match[1]}.{inside[match[2]]}.{match[3]}"


def _check_shapes(path: Path, tensors: Mapping[str, RawTensor], config: Config) -> None:
    """Raises ExportError unless the tensors are those that the configuration speaks of."""
    wanted = shapes(config, tensors.keys())
    if missing := wanted.keys() - tensors.keys():
        raise ExportError(f"{path} lacks weights of the model: {_some(missing)}", hint=GET_AGAIN)
    if unknown := tensors.keys() - wanted.keys():
        raise ExportError(
            f"{path} has weights that its metadata knows nothing of: {_some(unknown)}", hint=GET_AGAIN
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name]:
            raise ExportError(
                f"{path}: {name} is {tensor.shape}, where the metadata wants {wanted[name]}", hint=GET_AGAIN
            )


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else first


def _check_type(path: Path, name: str, tensor: RawTensor) -> None:
    """Raises ExportError for a type without a way to float32, and for a vector in blocks."""
    block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    is_known = block == 1 or len(tensor.shape) == 2
    try:
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), tensor.kind)
    except NotImplementedError:
        is_known = False
    if not is_known:
        raise ExportError(
            f"{path}: {name} is of the type {tensor.kind.name}, which cannot be read", hint=UNKNOWN_TYPE
        )
