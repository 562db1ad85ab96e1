"""Traced graphs as parts of others: what the plain graphs of all models that write are made with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from lmcli.export.graph import Graph, Tensor
from lmcli.export.plain import optimize
from lmcli.export.quantize import POSITIONS

_POSITIONS = re.compile(r"position|\bwpe\b")  # GPT-2's kin are of few words


@contextmanager
def same_settings(model: Any) -> Iterator[None]:
    """Take back what optimum writes into the model's configurations: T5 would not run any more."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    before = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    try:
        yield
    finally:
        for config, use_cache in before:
            config.use_cache = use_cache


class Frame(Graph):
    """A graph that takes in traced ones."""

    def ones(self, shape: str) -> str:
        """An int64 tensor of ones."""
        return self.op("ConstantOfShape", shape, value=helper.make_tensor("one", TensorProto.INT64, [1], [1]))

    def include(self, traced: onnx.GraphProto, prefix: str, names: Mapping[str, str]) -> None:
        """Put a traced graph here: what it calls `names` is called so, everything else gets a prefix."""
        # The quantizer knows tables of positions by their name.
        tables = [item.name for item in traced.initializer if _POSITIONS.search(item.name)]
        renamed = {"": ""} | {name: f"{POSITIONS}.{prefix}{name}" for name in tables} | dict(names)
        for node in traced.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = prefix + node.name
            copy.input[:] = [renamed.get(name, prefix + name) for name in node.input]
            copy.output[:] = [renamed.get(name, prefix + name) for name in node.output]
            self._nodes.append(copy)
        for tensor in traced.initializer:
            tensor.name = renamed.get(tensor.name, prefix + tensor.name)
            self._constants[tensor.name] = tensor


def cache_tensor(item: onnx.ValueInfoProto, rows: str, length: str) -> Tensor:
    """Keys or values of a traced graph under other names for rows and length."""
    _, heads, _, head_size = axes_of(item)
    return TensorProto.FLOAT, [rows, heads, length, head_size]


def axes_of(item: onnx.ValueInfoProto) -> list[int]:
    """The size of each axis; 0 where it varies."""
    return [axis.dim_value for axis in item.type.tensor_type.shape.dim]


def optimized(model: onnx.ModelProto, folder: Path, name: str) -> onnx.ModelProto:
    """The graph as ONNX Runtime rewrites it."""
    path = folder / f"{name}.onnx"
    # Weights that a traced graph has beside it are in this folder, too.
    onnx.save(model, path, save_as_external_data=True, location=f"{name}.data")
    # A product that is fused with a scale, as T5's output layer, is none that becomes int8.
    return optimize(path, folder / f"{name}.optimized.onnx", without=["MatMulScaleFusion"])
