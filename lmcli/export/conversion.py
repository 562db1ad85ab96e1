"""`Conversion`: what the exports of all kinds of models have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmcli.bundle.manifest import Precision, Task, Tier
from lmcli.errors import ExportError
from lmcli.export import prove
from lmcli.export.config import Config
from lmcli.export.options import ExportOptions
from lmcli.export.quantize import quantize
from lmcli.export.source import Checkpoint

# A protobuf cannot be larger than 2 GiB; weights beyond that go beside the graph.
_MAX_PROTOBUF = 2**31 - 2**25
_TOOLS = ("lmcli", "onnxruntime-gpu", "onnxruntime", "optimum-onnx", "transformers", "torch", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One export at work."""

    checkpoint: Checkpoint
    config: Config
    """The sanitized content of config.json."""
    task: Task
    options: ExportOptions
    scratch: Path
    report: Callable[[str], None]
    proof: dict[str, Any] = field(default_factory=dict)
    """What the proofs measured so far."""

    @property
    def lines(self) -> Sequence[str]:
        """What the export is proven on."""
        return self.options.lines or prove.sample_lines()

    @property
    def precision(self) -> Precision:
        """The precision of the weights."""
        if self.options.device == "cuda":
            return self.options.precision or "fp16"
        return self.options.precision or ("blocks" if self.task == "text-generation" else "int8")

    def folder(self, name: str) -> Path:
        """A new scratch folder."""
        folder = self.scratch / name
        folder.mkdir()
        return folder

    def save_exact(self, graph: onnx.ModelProto, name: str) -> Path:
        """Write a float32 graph to be proven."""
        path = self.scratch / name
        if _save(graph, path):  # saving has moved the weights out of `graph`, which goes on to be quantized
            onnx.load_external_data_for_model(graph, str(path.parent))
        return path

    def save(
        self,
        graph: onnx.ModelProto,
        path: Path,
        *,
        keep: Sequence[str] = (),
        keep_nodes: str = "",
        beside: bool = False,
    ) -> None:
        """Write a graph in the precision of the export; blocks are in it already.

        fp16 changes all inputs and outputs but `keep`, and all nodes but those that give `keep` or a result
        whose name begins with `keep_nodes`. With `beside` the weights are in a file of their own, which takes
        no parsing to load.
        """
        if self.precision == "int8":
            quantize(graph)
        elif self.precision == "fp16":
            graph = _to_fp16(graph, keep, keep_nodes)
        _save(graph, path, beside=beside)

    def batch_tolerance(self, tier: Tier) -> float:
        """How far a line alone may be from the same line in a batch, in units of the largest logit."""
        return max(
            prove.FP16_BATCH_TOLERANCE if self.precision == "fp16" else 0.0,
            prove.PLAIN_BATCH_TOLERANCE if tier == "plain" else 0.0,
        )

    def provenance(self) -> dict[str, Any]:
        """Where the bundle comes from. The path of a directory or file is the user's business."""
        checkpoint = self.checkpoint
        tools = {}
        for tool in (*_TOOLS, *(["gguf"] if checkpoint.gguf else [])):
            try:
                tools[tool] = metadata.version(tool)
            except metadata.PackageNotFoundError:
                continue
        is_path = checkpoint.kind in {"directory", "file"}
        model = checkpoint.path.resolve().name if is_path else checkpoint.id
        return {
            "kind": checkpoint.kind,
            "model": model,
            "revision": checkpoint.revision,
            "license": self.options.license or checkpoint.license,
            "tools": tools,
        }


def _to_fp16(model: onnx.ModelProto, keep: Sequence[str], keep_nodes: str) -> onnx.ModelProto:
    """Convert all but the last nodes: they are taken off and put back, as the converter cuts them apart."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = model.graph
    last = [node for node in graph.node if _is_last(node, keep, keep_nodes)]
    rest = [node for node in graph.node if not _is_last(node, keep, keep_nodes)]
    made = {name for node in rest for name in node.output}
    between = {name for node in last for name in node.input if name in made}
    made_last = {name for node in last for name in node.output}
    outputs = list(graph.output)
    _replace(graph.node, rest)
    _replace(
        graph.output,
        [item for item in outputs if item.name not in made_last]
        + [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(between)],
    )
    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=[*keep, *between])
    converted = {item.name: item for item in half.graph.output}
    half.graph.node.extend(last)
    _replace(half.graph.output, [converted.get(item.name, item) for item in outputs])
    return half


def _is_last(node: onnx.NodeProto, keep: Sequence[str], prefix: str) -> bool:
    return bool(prefix) and any(name in keep or name.startswith(prefix) for name in node.output)


def _replace(field: Any, items: Sequence[Any]) -> None:
    """Give a repeated field of a protobuf new content."""
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(kept)


_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


def _save(graph: onnx.ModelProto, path: Path, *, beside: bool = False) -> bool:
    """Write a graph; whether its weights are beside it, as those beyond the limit of a protobuf must be.

    Raises ExportError for weights that are no numbers: scores would be none either.
    """
    for tensor in graph.graph.initializer:
        if tensor.data_type in _FLOATS and np.isnan(numpy_helper.to_array(tensor)).any():
            raise ExportError(
                "the checkpoint has weights that are no numbers (NaN)", hint="get the checkpoint again"
            )
    # The size of the whole is not asked for: protobuf fails to tell one that is too large.
    beside = beside or sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > _MAX_PROTOBUF
    onnx.save(graph, path, save_as_external_data=beside, location=f"{path.name}.data" if beside else None)
    if beside:
        path.with_name(f"{path.name}.data").chmod(path.stat().st_mode)  # onnx keeps it from everyone else
    return beside
