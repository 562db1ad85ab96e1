"""The plain graphs: what optimum exports, for every causal language model that has no fast graph here.

Optimum's graph takes a mask and the positions of tokens, and gives the logits of all of them. The engine's
(engine/growing.py) has rows of equal length, so both follow from shapes; and it wants what may follow the
`wanted` tokens alone, so no others reach the output layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from lmcli.export.causal import SCORED
from lmcli.export.choice import CHOICE, choose
from lmcli.export.graph import OPSETS, Tensor
from lmcli.export.plain import check_inputs, optimum_failures
from lmcli.export.traced import Frame, cache_tensor, optimized, same_settings

INT64 = TensorProto.INT64

_TASK = "text-generation-with-past"
_PAST = "past_key_values."
_INPUTS: Mapping[str, Tensor] = {
    "input_ids": (INT64, ["rows", "sequence"]),
    "parents": (INT64, ["rows"]),
    "wanted": (INT64, ["outputs"]),
    "scored_ids": (INT64, ["outputs", "scored"]),
    "k": (INT64, [1]),
}
"""What the graph takes beside keys and values."""
_BEHIND_HEAD = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Tanh"})
"""What may stand between the output layer and the logits, such as Gemma's soft cap, and knows no tokens."""


def build_plain_causal(model: Any, *, scratch: Path) -> onnx.ModelProto:
    """The float32 graph of a transformers model; engine/growing.py drives it.

    Raises ExportError when optimum does not know the architecture, or its graph cannot be brought into the
    engine's form.
    """
    name = model.config.model_type
    path = scratch / "traced.onnx"
    with optimum_failures(name, _TASK), same_settings(model):
        _trace(model, path)
    traced = onnx.load(path, load_external_data=False)
    past = {item.name for item in traced.graph.input if item.name.startswith(_PAST)}
    check_inputs(traced, name, {"input_ids", "attention_mask", "position_ids"} | past)
    return optimized(_framed(traced.graph), scratch, "model")


def _trace(model: Any, path: Path) -> None:
    """Optimum's one graph for prompts and steps; its larger functions also look for files on the hub."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model=model, task=_TASK, library_name="transformers"
    )
    export(model, constructor(model.config, use_past_in_inputs=True), path, opset=OPSETS[""])


def _framed(traced: onnx.GraphProto) -> onnx.ModelProto:
    """Tokens of rows of equal length, and the cache, to the best next tokens."""
    frame = Frame()
    inputs, outputs = dict(_INPUTS), {**CHOICE, **SCORED}
    names = {"input_ids": "input_ids", "wanted": "wanted"}
    for item in traced.input:
        if item.name.startswith(_PAST):
            name = item.name.replace(_PAST, "past.")
            inputs[name] = cache_tensor(item, "past_rows", "past_length")
            names[item.name] = frame.op("Gather", name, "parents")
    rows, length = frame.size("input_ids", 0), frame.size("input_ids", 1)
    past = frame.size("past.0.key", 2)
    total = frame.op("Add", past, length)
    ends = [frame.op("Squeeze", end) for end in (past, total)]
    positions = frame.op("Range", *ends, frame.constant(1))
    names["position_ids"] = frame.op("Expand", positions, frame.op("Concat", rows, length, axis=0))
    names["attention_mask"] = frame.ones(frame.op("Concat", rows, total, axis=0))
    for item in traced.output[1:]:
        names[item.name] = item.name
        outputs[item.name] = cache_tensor(item, "rows", "present_length")
    logits = _of_wanted(traced)
    frame.include(traced, "model.", names)
    choose(frame, "model." + logits)
    frame.op("GatherElements", "choice_log_probabilities", "scored_ids", axis=-1, output="scored")
    return frame.model(inputs=inputs, outputs=outputs)


def _of_wanted(traced: onnx.GraphProto) -> str:
    """Let no token but the `wanted` ones reach the output layer; the name of their logits, (outputs, ...).

    Where the end of the graph is of an unknown form, logits of all tokens are computed and then chosen from.
    """
    logits: str = traced.output[0].name
    place = _output_layer(traced)
    every = logits if place is None else traced.node[place].input[0]
    nodes = [
        helper.make_node("Flatten", [every], ["every_token"], name="every_token", axis=2),
        helper.make_node("Gather", ["every_token", "wanted"], ["wanted_tokens"], name="wanted_tokens"),
    ]
    if place is None:
        traced.node.extend(nodes)
        return "wanted_tokens"
    traced.node[place].input[0] = "wanted_tokens"
    for node in reversed(nodes):
        traced.node.insert(place, node)
    return logits


def _output_layer(traced: onnx.GraphProto) -> int | None:
    """Which node is the product that makes logits of hidden states, if nothing behind it mixes tokens."""
    makers = {output: place for place, node in enumerate(traced.node) for output in node.output}
    weights = {item.name for item in traced.initializer}
    fixed = weights | {output for output, place in makers.items() if traced.node[place].op_type == "Constant"}
    place = makers[traced.output[0].name]
    while traced.node[place].op_type in _BEHIND_HEAD:
        varying = [name for name in traced.node[place].input if name not in fixed]
        if len(varying) != 1 or varying[0] not in makers:
            return None
        place = makers[varying[0]]
    node = traced.node[place]
    return place if node.op_type == "MatMul" and node.input[1] in weights else None


def longest_text(config: Any) -> int | None:
    """For how many tokens the graph computes what transformers does; None: for any number.

    Some models turn positions in another way in longer texts. A trace has one of the ways.
    """
    scaling = getattr(config, "rope_scaling", None) or {}
    known: int | None = getattr(config, "max_position_embeddings", None)
    if (scaling.get("rope_type") or scaling.get("type")) == "longrope":
        trained = scaling.get("original_max_position_embeddings")
        return int(trained or getattr(config, "original_max_position_embeddings", None) or known or 0) or None
    return known
