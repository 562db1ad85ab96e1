"""int8 for any graph: one scale per weight column, and one per row of the activations.

ONNX Runtime's `quantize_dynamic` uses one activation scale for a whole batch, so the answer to a line depends
on its neighbours. Here each row has its own, as in CTranslate2: x is divided by its largest absolute value,
multiplied in integers by the packed U8S8 kernel (MatMulIntegerToFloat), and scaled back. Integer sums are
exact, so a row gives the same bits alone and in any batch (docs/design.md has the measurements).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmcli.errors import ExportError
from lmcli.export.graph import MICROSOFT

# Heads of a few labels cost nothing and decide everything: they stay in float.
_MIN_COLUMNS = 32
_MIN_EMBEDDINGS = 1024
POSITIONS = "positions"
"""What tables of positions are called: small, and smooth, so they stay in float."""
PADDING = "padding"
"""What a bias is called that keeps some columns far below the others, however the rows are scaled."""


@dataclass(frozen=True)
class _Range:
    """How the rows of an activation map to uint8: row / max(largest, floor), then scale and zero point.

    Without a floor, a row of zeros is divided by zero; whatever integers come of it are multiplied by zero.
    """

    symmetric: bool
    floor: float
    scale: float
    zero_point: int


_SYMMETRIC = _Range(symmetric=True, floor=0.0, scale=1 / 127, zero_point=128)
# GELU's minimum is -0.17 for every row, so a symmetric range would waste almost half of the 256 values. With
# the divisor kept at 1 or above, [-0.17, 1] holds every row.
_AFTER_GELU = _Range(symmetric=False, floor=1.0, scale=1.17 / 255, zero_point=37)
# The same for SiLU, whose minimum is -0.2785. (QuickGelu is written with alpha = 1 only, which is SiLU.)
_AFTER_SILU = _Range(symmetric=False, floor=1.0, scale=1.28 / 255, zero_point=56)
_AFTER_RELU = _Range(symmetric=False, floor=0.0, scale=1 / 255, zero_point=0)
_RANGES = {
    "Gelu": _AFTER_GELU,
    "BiasGelu": _AFTER_GELU,
    "FastGelu": _AFTER_GELU,
    "QuickGelu": _AFTER_SILU,
    "Relu": _AFTER_RELU,
}


def quantize(model: onnx.ModelProto) -> None:
    """Turn the products with constant weights and the embedding tables of `model` into int8, in place.

    Raises ExportError when there are none.
    """
    if not _Quantizer(model).run():
        raise ExportError("the graph has no weights that int8 could hold", hint="use `--precision fp32`")


class _Quantizer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._uses = Counter(name for node in self._graph.node for name in node.input)
        self._producers = {name: node.op_type for node in self._graph.node for name in node.output}
        self._nodes: list[onnx.NodeProto] = []
        self._rows: dict[str, tuple[str, str, _Range]] = {}
        self._new: dict[str, onnx.TensorProto] = {}

    def run(self) -> bool:
        """Rewrite the graph; whether anything became int8."""
        for node in list(self._graph.node):
            if self._is_linear(node):
                self._linear(node)
            elif self._is_embedding(node):
                self._embedding(node)
            else:
                self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for name, tensor in {**self._weights, **self._new}.items() if name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        if all(entry.domain != MICROSOFT for entry in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return bool(self._new)

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        weight = self._weights.get(node.input[1]) if _is_product(node) else None
        columns = 0 if _is_transposed(node) else 1
        return weight is not None and len(weight.dims) == 2 and weight.dims[columns] >= _MIN_COLUMNS

    def _is_embedding(self, node: onnx.NodeProto) -> bool:
        table = self._weights.get(node.input[0]) if node.op_type == "Gather" else None
        return (
            table is not None
            and table.data_type == TensorProto.FLOAT
            and len(table.dims) == 2
            and table.dims[0] >= _MIN_EMBEDDINGS
            and self._uses[node.input[0]] == 1
            and not node.input[0].startswith(POSITIONS)
            and all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
        )

    def _linear(self, node: onnx.NodeProto) -> None:
        """MatMul(x, W) becomes MatMulIntegerToFloat(quantized x / row, int8 W) * row; Gemm adds its bias."""
        x, weight, *bias = node.input
        padding, biases = (bias, []) if bias == [PADDING] else ([], bias)
        quantized, row, span = self._rows.get(x) or self._quantize_rows(x)
        if weight + "_int8" not in self._new:
            matrix = numpy_helper.to_array(self._weights[weight])
            values, scale = _int8(matrix.T if _is_transposed(node) else matrix, axis=0)
            self._add_constant(weight + "_int8", values)
            self._add_constant(weight + "_scale", scale.reshape(-1))
        product = self._node(
            "MatMulIntegerToFloat",
            [
                quantized,
                weight + "_int8",
                self._constant(np.float32(span.scale)),
                weight + "_scale",
                self._constant(np.uint8(span.zero_point)),
                *(["", *padding] if padding else []),
            ],
            node.output[0] + "_rows",
            domain=MICROSOFT,
        )
        scaled = node.output[0] + "_scaled" if biases else node.output[0]
        self._node("Mul", [product, row], scaled)
        if biases:
            self._node("Add", [scaled, *biases], node.output[0])

    def _quantize_rows(self, x: str) -> tuple[str, str, _Range]:
        """Quantize an activation once for all the MatMuls it feeds: names of (uint8 values, row divisor)."""
        span = _RANGES.get(self._producers.get(x, ""), _SYMMETRIC)
        size = self._node("Abs", [x], x + "_abs") if span.symmetric else x
        if self._opset >= 18:
            axes = self._constant(np.array([-1], np.int64))
            largest = self._node("ReduceMax", [size, axes], x + "_max", keepdims=1)
        else:
            largest = self._node("ReduceMax", [size], x + "_max", axes=[-1], keepdims=1)
        row = largest
        if span.floor:
            row = self._node("Max", [largest, self._constant(np.float32(span.floor))], x + "_row")
        # One division for each row, not for each element.
        inverse = self._node("Reciprocal", [row], x + "_inverse")
        unit = self._node("Mul", [x, inverse], x + "_unit")
        scale, zero_point = self._constant(np.float32(span.scale)), self._constant(np.uint8(span.zero_point))
        self._rows[x] = (self._node("QuantizeLinear", [unit, scale, zero_point], x + "_uint8"), row, span)
        return self._rows[x]

    def _embedding(self, node: onnx.NodeProto) -> None:
        """Gather(table, ids) becomes float(Gather(int8 table, ids)) * Gather(scale of each row, ids)."""
        table, ids = node.input
        values, scale = _int8(numpy_helper.to_array(self._weights[table]), axis=1)
        self._add_constant(table + "_int8", values)
        self._add_constant(table + "_scale", scale)
        picked = self._node("Gather", [table + "_int8", ids], node.output[0] + "_int8")
        unit = self._node("Cast", [picked], node.output[0] + "_unit", to=TensorProto.FLOAT)
        factor = self._node("Gather", [table + "_scale", ids], node.output[0] + "_scale")
        self._node("Mul", [unit, factor], node.output[0])

    def _node(
        self, kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: object
    ) -> str:
        name = f"node_{output}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def _constant(self, value: npt.NDArray[np.int64] | np.generic) -> str:
        name = f"int8_{value.dtype}_{'_'.join(str(item) for item in np.ravel(value))}"
        self._add_constant(name, np.asarray(value))
        return name

    def _add_constant(self, name: str, value: npt.NDArray[np.generic]) -> None:
        self._new[name] = numpy_helper.from_array(value, name)


def _is_product(node: onnx.NodeProto) -> bool:
    """Whether a node is x @ weight, or x @ weight + bias."""
    if node.op_type != "Gemm":
        return bool(node.op_type == "MatMul")
    plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return all(given.get(name, value) == value for name, value in plain.items())


def _is_transposed(node: onnx.NodeProto) -> bool:
    """Whether its weights have a row for each column of the result."""
    return any(item.name == "transB" and item.i for item in node.attribute)


def _int8(
    values: npt.NDArray[np.float32], *, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 with one scale along `axis`: values ~ int8 * scale."""
    scale = (np.abs(values).max(axis=axis, keepdims=True) / 127).astype(np.float32)
    scale[scale == 0] = 1
    return np.rint(values / scale).astype(np.int8), scale
