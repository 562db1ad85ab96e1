"""The plain graph: what optimum exports, for every encoder that has no fast graph here."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from lmcli.errors import ExportError

_FED = {"input_ids", "attention_mask", "token_type_ids"}
# Slower on a CPU than the plain operators that they replace (docs/design.md).
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]


def build_plain(model: Any, *, task: str, scratch: Path) -> onnx.ModelProto:
    """The float32 graph of a transformers model, traced by optimum, then optimized by ONNX Runtime.

    Raises ExportError when optimum does not know the architecture, or the graph needs more than text.
    """
    from optimum.exporters.onnx import onnx_export_from_model

    name = model.config.model_type
    with _quiet():
        try:
            onnx_export_from_model(model, scratch, task=task, do_validation=False)
        except Exception as error:  # optimum and torch raise many kinds; none of them is ours to sort
            raise ExportError(
                f"optimum cannot export {name} for {task}: {error}",
                hint="only architectures that optimum-onnx supports for this task can be exported",
            ) from error
    missing = {item.name for item in onnx.load(scratch / "model.onnx", load_external_data=False).graph.input}
    if missing := missing - _FED:
        raise ExportError(f"{name} needs inputs that a text has not: {', '.join(sorted(missing))}")
    return _optimize(scratch / "model.onnx", scratch / "optimized.onnx")


def _optimize(source: Path, target: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
    )
    return onnx.load(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings and prints away from the user's terminal, and stdout for data."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
