"""What a command imports: nothing heavy to show help, nothing of an export to run a model."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"numpy", "onnxruntime", "tokenizers", "rich"}
EXPORT = {"torch", "transformers", "optimum", "onnx", "safetensors", "huggingface_hub"}
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
    [["--help"], ["--version"], ["sentiment", "--help"], ["ner", "--help"], ["export", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    assert imported_by(*argv) & (HEAVY | EXPORT) == set()


def test_models_imports_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path))
    assert imported_by("models", "list") & (HEAVY | EXPORT) == set()


@pytest.mark.parametrize("task", ["sentiment", "ner"])
def test_a_run_imports_nothing_of_an_export(task: str) -> None:
    imported = imported_by(task, stdin="A fine day in Rome.\n")
    assert imported & EXPORT == set()
    assert imported & HEAVY == HEAVY - {"rich"}
