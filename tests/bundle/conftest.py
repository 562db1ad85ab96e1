from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lmcli.bundle.manifest import MANIFEST_NAME, Manifest, Task
from lmcli.bundle.write import file_facts

WriteBundle = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory in `work`, and an empty user's store in `home/bundles`."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def write_bundle() -> WriteBundle:
    """A writer of bundles whose graph is a few bytes."""

    def write(path: Path, *, task: Task = "text-classification") -> Path:
        path.mkdir(parents=True)
        for name in ("model.onnx", "tokenizer.json", "README.md"):
            (path / name).write_text(f"the {name} of {path.name}")
        manifest = replace(_manifest(path.name, task), files=file_facts(path))
        (path / MANIFEST_NAME).write_bytes(manifest.to_json())
        return path

    return write


def _manifest(name: str, task: Task) -> Manifest:
    return Manifest(
        name=name,
        task=task,
        model_type="bert",
        tier="plain",
        precision="int8",
        device="cpu",
        labels=("negative", "positive"),
        activation="softmax",
        context_length=512,
        inputs=("input_ids", "attention_mask"),
        source={"kind": "directory", "id": name},
    )
