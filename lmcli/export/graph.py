"""`Graph`: a small builder for ONNX graphs, so that a model reads top to bottom as a list of operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"  # ONNX Runtime's contrib operators
OPSETS = {"": 20, MICROSOFT: 1}
IR_VERSION = 10

Array = npt.NDArray[Any]


class Graph:
    """A graph under construction: `op` adds a node and returns its output's name, `constant` a weight."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, domain: str = "", output: str = "", **attributes: object) -> str:
        """Add a node with one output; an empty input name leaves an optional input out."""
        output = output or f"{kind}_{len(self._nodes)}"
        name = f"node_{output}"
        self._nodes.append(
            helper.make_node(kind, list(inputs), [output], name=name, domain=domain, **attributes)
        )
        return output

    def split(self, x: str, parts: int) -> list[str]:
        """Cut the last axis into equal parts."""
        outputs = [f"Split_{len(self._nodes)}_{index}" for index in range(parts)]
        self._nodes.append(
            helper.make_node("Split", [x], outputs, name=f"node_{outputs[0]}", axis=-1, num_outputs=parts)
        )
        return outputs

    def constant(self, value: Array | Sequence[int] | int, name: str = "") -> str:
        """Add a constant; integers become int64, as shapes and axes are."""
        array = np.asarray(value)
        name = name or f"constant_{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def model(
        self, *, inputs: dict[str, tuple[int, list[str]]], outputs: dict[str, list[str]]
    ) -> onnx.ModelProto:
        """The finished model: inputs with element type and axis names, float outputs with axis names."""
        graph = helper.make_graph(
            self._nodes,
            "lmcli",
            [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in outputs.items()],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lmcli")
