"""`ExportOptions`: what to make of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from lmcli.bundle.manifest import Device, Precision, Task
from lmcli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint."""

    task: Task | None = None
    """None: what the checkpoint was trained for, by its architecture's name."""
    precision: Precision | None = None
    """None: fp16 for CUDA; for the CPU blocks for language models with a fast graph, int8 for all others."""
    device: Device = "cpu"
    context_length: int | None = None
    """The longest row; at most what the model allows.

    None: 512 for classifiers and embedders, 1,024 for encoder-decoders, 32,768 for language models.
    """
    lines: tuple[str, ...] = ()
    """Lines to prove the export on, instead of the built-in sample."""
    license: str | None = None
    """The license of the model, where the source does not name it."""
    notes: str = ""
    """Markdown for the model card: data, limits, measured quality."""
    allow_pickle: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a precision that the device does not run."""
        if self.device == "cuda" and self.precision in {"int8", "blocks"}:
            raise UsageError(
                f"{self.precision} is for the CPU: its integer kernels have no CUDA form",
                hint="use `--precision fp16` with `--device cuda`",
            )
