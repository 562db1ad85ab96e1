"""What a command imports: nothing heavy to show help, nothing of an export to run a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = {"numpy", "onnxruntime", "tokenizers"}
LANGUAGE = {"langcodes", "sentencex"}
HEAVY = ENGINE | LANGUAGE | {"msgspec", "rich"}
EXPORT = {"torch", "transformers", "optimum", "onnx", "safetensors", "sentencepiece", "huggingface_hub"} | {
    "gguf",
    "yaml",
}
COMMANDS = ("sentiment", "ner", "translate", "summarize", "prompt", "embed", "pull", "export", "models")
SCRIPT = """\
import sys
from lmcli.cli.app import run
code = run(sys.argv[1:])
print(code, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported_by(*argv: str, stdin: str = "") -> set[str]:
    """The packages in memory after a command that ended well."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, *names = done.stderr.split()
    assert (code, bool(done.stdout)) == ("0", True)
    return set(names)


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    assert imported_by(*argv) & (HEAVY | EXPORT) == set()


def test_models_imports_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path))
    assert imported_by("models", "list") & (HEAVY | EXPORT) == {"msgspec"}  # reads manifests


@pytest.mark.parametrize(
    ("task", "more"),
    [("sentiment", set()), ("ner", set()), ("translate", LANGUAGE)],
    ids=["sentiment", "ner", "translate"],
)
def test_a_run_imports_what_it_needs_and_nothing_of_an_export(task: str, more: set[str]) -> None:
    imported = imported_by(task, stdin="A fine day in Rome.\n")
    assert imported & EXPORT == set()
    assert imported & HEAVY == ENGINE | {"msgspec"} | more


def test_a_run_leaves_nothing_at_home(tmp_path: Path) -> None:
    """ONNX Runtime would keep an id of the machine there, and send it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    done = subprocess.run(
        [sys.executable, "-m", "lmcli", "sentiment", "-m", "sentiment-en"],
        input="A good day.\n",
        capture_output=True,
        text=True,
        timeout=60,
        env=environment | {"HOME": str(tmp_path)},
        check=True,
    )
    assert (done.stdout.startswith("POSITIVE"), done.stderr) == (True, "")
    assert list(tmp_path.iterdir()) == []
