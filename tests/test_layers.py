"""The import direction of docs/design.md, read from the source: imports inside functions count as well."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmcli

PACKAGE = Path(lmcli.__file__).parent
LOWEST = {"errors", "spelling"}
# What each layer may import of lmcli, besides itself and the lowest.
BELOW = {
    "errors": set(),
    "spelling": set(),
    "records": set(),
    "engine": set(),
    "bundle": {"engine"},
    "prompting": {"records", "engine", "bundle"},
    "metrics": set(),
    "tasks": {"records", "engine", "bundle", "prompting", "metrics"},
    "pipeline": {"records", "engine", "bundle", "prompting", "metrics", "tasks"},
    "export": {"engine", "bundle"},
    "cli": {
        "records",
        "engine",
        "bundle",
        "prompting",
        "metrics",
        "tasks",
        "pipeline",
        "export",
        "__version__",
    },
    "__main__": {"cli"},
    "__init__": set(),
}
# Who may import a package, directly.
ONLY = {
    "typer": {"cli"},
    "rich": {"cli"},
    "click": set(),
    "torch": {"export"},
    "transformers": {"export"},
    "optimum": {"export"},
    "onnx": {"export"},
    "safetensors": {"export"},
    "huggingface_hub": {"export"},
    "requests": {"export"},
    "httpx": {"export"},
    "sentencepiece": {"export"},
    "tokenizers": {"engine", "export"},
    "minijinja": {"prompting"},
    "bm25s": {"prompting"},
    "numpy": {"engine", "prompting", "tasks", "export"},
    "onnxruntime": {"engine", "export"},
    "msgspec": {"bundle", "prompting", "export"},
    "sentencex": {"tasks"},
    "langcodes": {"tasks"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The full names of all that a module imports, `import_module("name")` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: a relative import")
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_layer_is_known() -> None:
    assert {layer_of(path) for path in MODULES} == BELOW.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downward(path: Path) -> None:
    layer = layer_of(path)
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("lmcli.")}
    assert inside - {layer, *LOWEST} <= BELOW[layer]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_packages_stay_in_their_layer(path: Path) -> None:
    layer = layer_of(path)
    outside = {name.partition(".")[0] for name in imports(path)} - sys.stdlib_module_names
    assert {name for name in outside & ONLY.keys() if layer not in ONLY[name]} == set()


def test_what_typer_keeps_to_itself_is_used_in_few_places() -> None:
    """They are to be read again when its upper bound in pyproject.toml is raised."""
    users = {path.relative_to(PACKAGE).as_posix() for path in MODULES if "typer._click" in path.read_text()}
    assert users == {"cli/app.py", "cli/commands/completion.py", "cli/config/context.py"}


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import a.b\ndef f():\n    from c import d, e\n    importlib.import_module('g')\n")
    assert sorted(imports(path)) == ["a.b", "c.d", "c.e", "g"]
