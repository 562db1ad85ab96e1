"""The whole export of causal models, from checkpoint directories and GGUF files to bundles that run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lmcli.bundle.load import load_causal
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Source
from lmcli.errors import ExportError, LmcliError, UsageError
from lmcli.export.convert import export
from lmcli.export.options import ExportOptions
from tests.export import gguf_files
from tests.export.causal_checkpoints import FAST, MODELS, PLAIN, make_tokenizer, write_checkpoint

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

NEW_TOKENS = 12
TEXTS = ("The lake was quiet", "On a dit que la", "the cat", "The lake was quiet", "a")


def run_export(source: Path, parent: Path, **options: Any) -> Path:
    return export(str(source), "tiny", ExportOptions(**options), parent=parent, report=lambda _: None)


def greedy(path: Path, prompts: Sequence[Any]) -> list[list[int]]:
    """What the bundle adds to each prompt."""
    bundle = read_bundle(path)
    with load_causal(bundle, Device("cpu"), threads=2, report=lambda _: None) as engine:
        config = GenerationConfig(eos_token_ids=(0,), max_new_tokens=NEW_TOKENS)
        found = engine.generate([Source(prompt, NEW_TOKENS) for prompt in prompts], config)
    return [hypotheses[0].token_ids for hypotheses in found]


def theirs(model: Any, prompts: Sequence[Any]) -> list[list[int]]:
    """What transformers adds."""
    import torch

    found = []
    for prompt in prompts:
        row = torch.from_numpy(prompt)[None]
        output = model.generate(
            row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=NEW_TOKENS
        )
        new = [*output[0].tolist()[len(prompt) :], 0]
        found.append(new[: new.index(0)])
    return found


def prompts() -> list[Any]:
    return [np.array(row, np.int64) for row in make_tokenizer()(list(TEXTS))["input_ids"]]


def num_equal(ours: list[list[int]], expected: list[list[int]]) -> int:
    """How many tokens are the same before the first difference of each output."""
    return sum(
        next(
            (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
            len(other),
        )
        for one, other in zip(ours, expected, strict=True)
    )


@pytest.mark.parametrize("precision", ["blocks", "int8", "fp32", "fp16"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt", "gpt_neox", "phi"])
def test_a_bundle_gives_the_tokens_of_transformers(name: str, precision: Any, tmp_path: Path) -> None:
    if (name, precision) == ("phi", "blocks"):
        pytest.skip("plain graphs have none")
    model = write_checkpoint(tmp_path / "source", MODELS[name])
    device = "cuda" if precision == "fp16" else "cpu"
    path = run_export(tmp_path / "source", tmp_path / "bundles", precision=precision, device=device)
    manifest = read_bundle(path).manifest
    assert (manifest.tier, manifest.precision) == ("plain" if name == "phi" else "fast", precision)
    assert {"graph", "batch", "tokenizer"} <= manifest.proof.keys()
    assert manifest.causal is not None
    assert manifest.causal.generation.eos_token_ids == (0,)
    ours, expected = greedy(path, prompts()), theirs(model, prompts())
    if precision == "fp32":
        assert ours == expected
    assert num_equal(ours, expected) > 0.3 * sum(map(len, expected))  # random weights hardly decide


def test_precisions_are_blocks_or_int8_unless_told_otherwise(tmp_path: Path) -> None:
    for name, precision in (("llama", "blocks"), ("phi", "int8")):
        write_checkpoint(tmp_path / name, MODELS[name])
        path = run_export(tmp_path / name, tmp_path / f"{name}-bundles")
        assert read_bundle(path).manifest.precision == precision


@pytest.mark.parametrize("precision", ["blocks", "int8", "fp32"])
def test_a_gguf_file_becomes_a_bundle(precision: Any, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    path = run_export(source, tmp_path / "bundles", precision=precision, lines=LINES)
    manifest = read_bundle(path).manifest
    assert (manifest.tier, manifest.precision, manifest.source["kind"]) == ("fast", precision, "file")
    assert manifest.causal is not None
    assert (manifest.causal.before, manifest.causal.generation.eos_token_ids) == ((1,), (2,))
    [tokens] = greedy(path, [np.array([1, 39, 5, 9])])
    assert len(tokens) <= NEW_TOKENS


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_a_table_of_4_bits_may_be_the_output_layer(kind: str, tmp_path: Path) -> None:
    """It is embedded from 8 bits, and multiplied with as it is."""
    source = write_gguf(tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType[kind])
    path = run_export(source, tmp_path / "bundles", lines=LINES)
    assert read_bundle(path).manifest.precision == "blocks"
    [tokens] = greedy(path, [np.array([1, 39, 5, 9])])
    assert len(tokens) <= NEW_TOKENS


LINES = ("abc def", "the quick brown fox jumps", "over the lazy dog", "zebra 123")


def write_gguf(path: Path, *, kind: Any = gguf.GGMLQuantizationType.Q8_0) -> Path:
    """A file with weights that are small enough for blocks to matter little."""
    weights = {
        name: np.ones_like(weight) if weight.ndim == 1 else weight * np.float32(0.1)
        for name, weight in gguf_files.random_weights().items()
    }
    gguf_files.write_gguf(path, weights=weights, kind=kind)
    return path


def test_no_torch_is_needed_for_a_llama(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", FAST["llama"])
    expected = run_export(tmp_path / "source", tmp_path / "bundles")
    program = """
import importlib.util, sys
BLOCKED = ("torch", "transformers", "optimum", "sentencepiece", "huggingface_hub")
sys.modules |= dict.fromkeys(BLOCKED)
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in BLOCKED else found(name, *rest)
from pathlib import Path
from lmcli.export.convert import export
from lmcli.export.options import ExportOptions
export(sys.argv[1], "bare", ExportOptions(), parent=Path(sys.argv[2]), report=print)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "source"), str(tmp_path / "bundles")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "equal to the source" not in done.stdout
    bare = tmp_path / "bundles" / "bare"
    for name in ("model.onnx.data", "tokenizer.json"):
        assert (bare / name).read_bytes() == (expected / name).read_bytes()


def refusal(source: Path, tmp_path: Path, **options: Any) -> LmcliError:
    """What the export says; nothing may be left of it."""
    with pytest.raises(LmcliError) as error:
        run_export(source, tmp_path / "bundles", **options)
    assert not (tmp_path / "bundles" / "tiny").exists()
    return error.value


def change_config(path: Path, **changes: Any) -> None:
    change_json(path / "config.json", **changes)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(path: Path, *removed: str, **changed: Any) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(path / "model.safetensors")
    for name in removed:
        del weights[name]
    save_file(weights | changed, path / "model.safetensors")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source", FAST["llama"])
    return tmp_path / "source"


def test_missing_weights_are_named(llama: Path, tmp_path: Path) -> None:
    change_weights(llama, "model.layers.1.mlp.up_proj.weight", "model.norm.weight")
    error = refusal(llama, tmp_path)
    assert isinstance(error, ExportError)
    assert error.message == (
        "the checkpoint lacks weights of the model: model.layers.1.mlp.up_proj.weight, model.norm.weight"
    )


def test_a_model_without_output_layer_must_be_tied(llama: Path, tmp_path: Path) -> None:
    change_config(llama, tie_word_embeddings=False)
    assert "lacks weights of the model: lm_head.weight" in refusal(llama, tmp_path).message


def test_an_output_layer_of_a_tied_model_is_the_embeddings(llama: Path, tmp_path: Path) -> None:
    expected = run_export(llama, tmp_path / "expected", precision="fp32")
    table = np.zeros((320, 64), np.float32)
    change_weights(llama, **{"lm_head.weight": table})
    path = run_export(llama, tmp_path / "bundles", precision="fp32")
    assert greedy(path, prompts()) == greedy(expected, prompts())


def test_weights_of_another_shape_are_refused(llama: Path, tmp_path: Path) -> None:
    change_config(llama, intermediate_size=128)
    error = refusal(llama, tmp_path)
    assert "mlp.down_proj.weight is (64, 96), where config.json wants (64, 128)" in error.message or (
        "is (96, 64), where config.json wants (128, 64)" in error.message
    )


def test_facts_that_are_missing_are_refused(llama: Path, tmp_path: Path) -> None:
    change_config(llama, intermediate_size=None)
    assert isinstance(refusal(llama, tmp_path), ExportError)


def test_a_checkpoint_must_name_the_end(llama: Path, tmp_path: Path) -> None:
    change_config(llama, eos_token_id=None)
    (llama / "generation_config.json").unlink()
    change_json(llama / "tokenizer_config.json", eos_token=None)
    change_json(llama / "special_tokens_map.json", eos_token=None)
    assert "names no token that ends an output" in refusal(llama, tmp_path).message


def test_a_damaged_tokenizer_is_refused(llama: Path, tmp_path: Path) -> None:
    content = json.loads((llama / "tokenizer.json").read_text())
    (llama / "tokenizer.json").write_text(json.dumps(content | {"model": {"type": "BPE", "vocab": []}}))
    assert "tokenizer.json is damaged" in refusal(llama, tmp_path).message


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(llama: Path, tmp_path: Path) -> None:
    change_json(llama / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    assert "tokenizer.json differs from the source tokenizer" in refusal(llama, tmp_path).message


def test_an_unknown_architecture_is_refused(llama: Path, tmp_path: Path) -> None:
    change_config(llama, model_type="llamma", architectures=["LlammaForCausalLM"])
    assert "the architecture 'llamma' is not part of transformers" in refusal(llama, tmp_path).message


def test_what_optimum_does_not_know_is_refused(tmp_path: Path) -> None:
    settings = {"d_model": 64, "num_layers": 1, "attention_heads": 4, "ffn_dim": 64}
    write_checkpoint(tmp_path / "xglm", ("xglm", settings))
    assert "optimum cannot export xglm" in refusal(tmp_path / "xglm", tmp_path).message


def test_plain_graphs_have_no_blocks(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", PLAIN["phi"])
    error = refusal(tmp_path / "source", tmp_path, precision="blocks")
    assert isinstance(error, UsageError)
    assert error.hint.startswith("use int8")


def test_a_gguf_file_of_a_model_without_fast_graph_is_refused(tmp_path: Path) -> None:
    config = {**gguf_files.LLAMA, "head_dim": 24}
    gguf_files.write_gguf(tmp_path / "tiny.gguf", config)
    error = refusal(tmp_path / "tiny.gguf", tmp_path)
    assert "lmcli runs no GGUF of a llama model with these settings" in error.message


def test_lines_of_a_word_prove_nothing(llama: Path, tmp_path: Path) -> None:
    assert "no line of the sample has 4 tokens" in refusal(llama, tmp_path, lines=("a", "b")).message


def test_a_context_is_as_long_as_wanted_and_possible(llama: Path, tmp_path: Path) -> None:
    for wanted, length in ((None, 128), (40, 40), (1000, 128)):
        path = run_export(llama, tmp_path / f"bundles-{wanted}", context_length=wanted)
        assert read_bundle(path).manifest.context_length == length
