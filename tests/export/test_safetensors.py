"""Safetensors are read one by one, in float32, without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lmcli.errors import ExportError
from lmcli.export.safetensors import read_safetensors
from lmcli.export.source import Checkpoint

WEIGHT = np.array([[1.5, -2.25], [0.0, 1024.0]], np.float32)
AGAIN = "get the checkpoint again; after a `git clone`, `git lfs pull` brings the weights"


def checkpoint(path: Path) -> Checkpoint:
    files = {entry.name: entry for entry in path.iterdir()}
    return Checkpoint(path=path, kind="directory", id="tiny", revision=None, files=files)


def write(path: Path, **tensors: Any) -> None:
    save_file(tensors, path)


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["F32", "F16", "BF16"])
def test_each_kind_of_float(kind: type, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", weight=WEIGHT.astype(kind))
    weights = read_safetensors(checkpoint(tmp_path))
    assert weights["weight"].dtype == np.float32
    np.testing.assert_array_equal(weights["weight"], WEIGHT)
    assert (list(weights), len(weights), "bias" in weights) == (["weight"], 1, False)
    with pytest.raises(KeyError):
        weights["bias"]


def write_shards(path: Path, index: dict[str, str]) -> None:
    write(path / "model-00001-of-00002.safetensors", first=WEIGHT)
    write(path / "model-00002-of-00002.safetensors", second=WEIGHT * 2)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_shards(tmp_path: Path) -> None:
    index = {"first": "model-00001-of-00002.safetensors", "second": "model-00002-of-00002.safetensors"}
    write_shards(tmp_path, index)
    weights = read_safetensors(checkpoint(tmp_path))
    assert sorted(weights) == ["first", "second"]
    np.testing.assert_array_equal(weights["second"], WEIGHT * 2)


def refusal(path: Path, name: str = "weight") -> tuple[str, str]:
    with pytest.raises(ExportError) as caught:
        read_safetensors(checkpoint(path))[name]
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH"), caught.value.hint


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    write_shards(tmp_path, {"first": "model-00003-of-00002.safetensors"})
    assert refusal(tmp_path) == (
        "PATH/model.safetensors.index.json names 'model-00003-of-00002.safetensors', which is not there",
        "get the checkpoint again",
    )


@pytest.mark.parametrize("names", [[], ["pytorch_model.bin"]], ids=["nothing", "a pickle"])
def test_no_safetensors(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert refusal(tmp_path) == (
        "tiny has no safetensors, which alone can be read without torch",
        "save the model again with transformers: `save_pretrained` writes safetensors",
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1", id="a pointer of LFS"),
        pytest.param(struct.pack("<Q", 2**60) + b"{}", id="an endless header"),
    ],
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    message, hint = refusal(tmp_path)
    assert message.startswith("PATH/model.safetensors: the weights cannot be read: ")
    assert hint == AGAIN


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, weight=WEIGHT)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(tmp_path)[0].startswith("PATH/model.safetensors: the weights cannot be read: ")


def test_a_weight_that_is_no_float(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", weight=np.arange(4), other=WEIGHT)
    assert refusal(tmp_path) == (
        "the weight weight is int64, not a float of 32 or 16 bits",
        "export the model it was made from; lmcli quantizes by itself",
    )
    assert read_safetensors(checkpoint(tmp_path))["other"].shape == (2, 2)


def test_a_type_that_numpy_does_not_have(tmp_path: Path) -> None:
    content = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(2))
    message, hint = refusal(tmp_path)
    assert message.startswith("the weight weight cannot be read: ")
    assert hint == AGAIN


@pytest.mark.export
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_shard_size", ["1GB", "10KB"])
def test_what_transformers_saves(dtype: str, max_shard_size: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes)).to(
        getattr(torch, dtype)
    )
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    weights = read_safetensors(checkpoint(tmp_path))
    wanted = model.state_dict()
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, wanted[name].float().numpy())


def test_neither_torch_nor_transformers_is_loaded() -> None:
    modules = "lmcli.export.gguf, lmcli.export.gguf_tokenizer, lmcli.export.safetensors"
    code = f"import sys, {modules}; print({{'torch', 'transformers', 'huggingface_hub'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
