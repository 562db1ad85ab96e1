"""The plain graph: what optimum exports, for every encoder that has no fast graph here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
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
    name = model.config.model_type
    path = scratch / "model.onnx"
    with optimum_failures(name, task):
        _trace(model, task, path)
    check_inputs(onnx.load(path, load_external_data=False), name, _FED)
    return optimize(path, scratch / "optimized.onnx")


@contextmanager
def optimum_failures(model_type: str, task: str) -> Iterator[None]:
    """Turn whatever optimum and torch raise while they trace a model into ExportError."""
    try:
        yield
    except Exception as error:  # they raise many kinds; none of them is ours to sort
        reason = " ".join(str(error).split())
        raise ExportError(
            f"optimum cannot export {model_type} for {task}: {reason}",
            hint="only architectures that optimum-onnx supports for this task can be exported",
        ) from error


def check_inputs(traced: onnx.ModelProto, model_type: str, known: Set[str]) -> None:
    """Raise ExportError if a traced graph wants more than the inputs `known`."""
    if missing := {item.name for item in traced.graph.input} - known:
        raise ExportError(f"{model_type} needs inputs that a text has not: {', '.join(sorted(missing))}")


def _trace(model: Any, task: str, path: Path) -> None:
    """Optimum's export of one model; its larger functions also look for files on the hub."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model=model, task=task, library_name="transformers"
    )
    config = constructor(model.config)
    export(model, config, path, opset=config.DEFAULT_ONNX_OPSET)


def optimize(source: Path, target: Path, *, without: Sequence[str] = ()) -> onnx.ModelProto:
    """The graph in the file `source` as ONNX Runtime rewrites it, by way of the file `target`.

    without: ONNX Runtime's names of rewrites that are not wanted.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    # Weights go beside the graph: a protobuf cannot be larger than 2 GiB.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
    )
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*_SLOW_FUSIONS, *without]
    )
    return onnx.load(target)
