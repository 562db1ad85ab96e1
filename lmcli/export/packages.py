"""`require`: packages that only some exports need."""

from __future__ import annotations

import importlib.util

from lmcli.errors import UnavailableError

TRACING = ("torch", "transformers", "optimum", "onnx", "safetensors", "sentencepiece")
"""What an export needs that loads the model in transformers, or traces it."""


def is_installed(*names: str) -> bool:
    """Whether all of the packages can be imported."""
    return not _missing(names)


def require(*names: str, by: str = "export") -> None:
    """Raise UnavailableError unless all of the packages are installed; `by` says what needs them."""
    if missing := _missing(names):
        raise UnavailableError(
            f"{by} needs packages that are not installed: {', '.join(missing)}",
            hint="install them: pip install 'lmcli[export]'",
        )


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]
