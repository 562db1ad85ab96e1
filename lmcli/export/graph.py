"""`Graph`: a small builder for ONNX graphs, so that a model reads top to bottom as a list of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"  # ONNX Runtime's contrib operators
OPSETS = {"": 20, MICROSOFT: 1}
IR_VERSION = 10

Array = npt.NDArray[Any]
Tensor = tuple[int, Sequence[str | int]]
"""Element type and axes of an input or output."""


class Graph:
    """A graph under construction: `op` adds a node and returns its output's name, `constant` a weight."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, domain: str = "", output: str = "", **attributes: object) -> str:
        """Add a node with one output; an empty input name leaves an optional input out."""
        output = output or f"{kind}_{len(self._nodes)}"
        return self.ops(kind, *inputs, outputs=[output], domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> list[str]:
        """Add a node with several outputs."""
        self._nodes.append(
            helper.make_node(
                kind, list(inputs), list(outputs), name=f"node_{outputs[0]}", domain=domain, **attributes
            )
        )
        return list(outputs)

    def split(self, x: str, parts: int) -> list[str]:
        """Cut the last axis into equal parts."""
        outputs = [f"Split_{len(self._nodes)}_{index}" for index in range(parts)]
        return self.ops("Split", x, outputs=outputs, axis=-1, num_outputs=parts)

    def size(self, x: str, axis: int) -> str:
        """The size of one axis of x, as int64 (1,)."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def constant(self, value: Array | Sequence[int] | int, name: str = "") -> str:
        """Add a constant; integers become int64, as shapes and axes are."""
        array = np.asarray(value)
        name = name or f"constant_{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def model(self, *, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> onnx.ModelProto:
        """The finished model: inputs and outputs with element type and axes, by name or by size.

        The constants go into it one by one, as there may not be memory for all of them twice.
        """
        graph = helper.make_graph(
            self._nodes,
            "lmcli",
            [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in inputs.items()],
            [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in outputs.items()],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lmcli")
        for name in list(self._constants):
            model.graph.initializer.append(self._constants.pop(name))
        return model
