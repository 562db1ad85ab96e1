"""Which task a checkpoint is for, who writes its bundle, and what that needs to be installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmcli.bundle.manifest import CausalFacts, Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.errors import UnavailableError, UsageError
from lmcli.export import convert
from lmcli.export.causal_shape import FAMILY
from lmcli.export.config import sanitize, task_of
from lmcli.export.conversion import Conversion
from lmcli.export.options import ExportOptions

CONFIG = {"model_type": "llama", "hidden_size": 8}


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Conversion]:
    """What the writer of causal models is asked for. It writes no files, and the extra is not installed."""
    asked = []

    def write_causal(conversion: Conversion, name: str, directory: Path) -> Manifest:
        asked.append(conversion)
        assert directory.is_dir()
        return Manifest(
            name=name,
            task=conversion.task,
            model_type="llama",
            tier="fast",
            precision="int8",
            device="cpu",
            context_length=64,
            inputs=("input_ids",),
            causal=CausalFacts(
                generation=GenerationConfig(eos_token_ids=(0,), max_new_tokens=8), vocab_size=8
            ),
            source=conversion.provenance(),
        )

    monkeypatch.setitem(convert._WRITERS, "text-generation", write_causal)
    monkeypatch.setattr(convert, "read_gguf", lambda _: SimpleNamespace(config=CONFIG))
    for name in ("torch", "transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    return asked


def run_export(source: Path, tmp_path: Path, **options: Any) -> Path:
    parent = tmp_path / "bundles"
    return convert.export(str(source), "tiny", ExportOptions(**options), parent=parent, report=lambda _: None)


def test_a_gguf_file_is_a_causal_model(tmp_path: Path, conversions: list[Conversion]) -> None:
    (tmp_path / "Tiny.Q4_1.gguf").write_bytes(b"GGUF")
    path = run_export(tmp_path / "Tiny.Q4_1.gguf", tmp_path)
    [conversion] = conversions
    assert (conversion.task, conversion.config) == ("text-generation", CONFIG)
    assert list(conversion.checkpoint.files) == ["Tiny.Q4_1.gguf"]
    source = json.loads((path / "manifest.json").read_bytes())["source"]
    assert (source["kind"], source["model"], source["revision"]) == ("file", "Tiny.Q4_1.gguf", None)
    assert "gguf" in source["tools"]
    assert "prompt and answer together" in (path / "README.md").read_text()


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_a_gguf_file_is_for_no_other_task(task: Any, tmp_path: Path, conversions: list[Conversion]) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError) as error:
        run_export(tmp_path / "tiny.gguf", tmp_path, task=task)
    assert (error.value.message, error.value.hint) == (
        f"{tmp_path}/tiny.gguf is a .gguf file, and those are for text-generation, not for {task}",
        "leave --task out, or export the checkpoint that the file was made from",
    )
    assert conversions == []


def test_blocks_are_for_language_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": []}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match="--precision blocks is for text-generation, not for feature-ext"):
        run_export(tmp_path, tmp_path, precision="blocks", task="feature-extraction")


def test_a_llama_needs_nothing_of_the_extra(tmp_path: Path, conversions: list[Conversion]) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "auto_map": {"A": "evil.B"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    path = run_export(tmp_path, tmp_path)
    [conversion] = conversions
    assert conversion.task == "text-generation"
    assert "auto_map" not in conversion.config
    assert "gguf" not in json.loads((path / "manifest.json").read_bytes())["source"]["tools"]


@pytest.mark.parametrize("model_type", [*FAMILY, "bert"])
@pytest.mark.usefixtures("conversions")
def test_what_lmcli_reads_by_itself_is_known_without_transformers(model_type: str) -> None:
    config = {"model_type": model_type, "_attn_implementation_internal": "org/evil"}
    assert sanitize(config) == {"model_type": model_type}


@pytest.mark.parametrize("model_type", ["zamba", "evil", None, ["llama"]])
@pytest.mark.usefixtures("conversions")
def test_other_architectures_are_left_to_transformers(model_type: object) -> None:
    with pytest.raises(UnavailableError, match="not installed: torch, transformers"):
        sanitize({"model_type": model_type})


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "text-generation"),
        ("Qwen3ForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertForSequenceClassification", "text-classification"),
        ("LlamaForSequenceClassification", "text-classification"),
        ("LlamaModel", None),
    ],
)
def test_the_task_is_that_of_the_architecture(architecture: str, task: str | None) -> None:
    assert task_of({"architectures": [architecture]}) == task
