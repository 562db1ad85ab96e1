"""The plain graphs: what optimum exports, for every encoder-decoder that has no fast graph here.

Optimum gives an encoder that ends with hidden states, a decoder for the first tokens, which turns them into
keys and values, and a decoder for every further token. The engine wants two graphs (engine/seq2seq.py): what
makes the keys and values is cut out of the first decoder and put behind the encoder, and the second decoder
makes the first step, too, with a past of no length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from lmcli.errors import ExportError
from lmcli.export.choice import CHOICE, choose
from lmcli.export.graph import OPSETS, Tensor
from lmcli.export.plain import check_inputs, optimum_failures
from lmcli.export.traced import Frame, axes_of, cache_tensor, optimized, same_settings

INT64 = TensorProto.INT64

_TASK = "text2text-generation-with-past"
_ENCODER, _FIRST, _NEXT = "encoder_model", "decoder_model", "decoder_with_past_model"
"""Optimum's names of the three graphs."""
_STEP: Mapping[str, Tensor] = {
    "input_ids": (INT64, ["rows", 1]),
    "parents": (INT64, ["rows"]),
    "k": (INT64, [1]),
}
"""What the decoder takes at every step beside keys and values."""


def build_plain_seq2seq(model: Any, *, scratch: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float32 graphs of encoder and decoder of a transformers model; engine/cache.py drives them.

    Right for sources up to `longest_source`. Raises ExportError when optimum does not know the architecture,
    or its graphs cannot be brought into the engine's form.
    """
    name = model.config.model_type
    multiple = _length_multiple(model.config)
    with optimum_failures(name, _TASK), same_settings(model):
        _trace(model, scratch, sequence_length=2 * max(multiple, 8))
    traced = {part: _load(scratch, part, name) for part in (_ENCODER, _FIRST, _NEXT)}
    pad_id = model.config.pad_token_id or 0
    encoder = _encoder(traced[_ENCODER], _source_projections(traced[_FIRST], name), multiple, pad_id)
    decoder = _decoder(traced[_NEXT])
    return optimized(encoder, scratch, "encoder"), optimized(decoder, scratch, "decoder")


def longest_source(config: Any) -> int | None:
    """The longest source for which the plain graph computes what transformers does; None: any.

    BigBird's attention is full up to a length, and from there on sparse, which no exporter can trace.
    """
    encoder = config.encoder if config.model_type == "encoder-decoder" else config
    if getattr(encoder, "attention_type", "") != "block_sparse":
        return None
    longest: int = (5 + 2 * encoder.num_random_blocks) * encoder.block_size
    return longest


def _length_multiple(config: Any) -> int:
    """What a source's length must be a multiple of for the traced encoder, which pads nothing itself."""
    if config.model_type != "longt5":
        return 1
    block: int = config.local_radius + 1
    if config.encoder_attention_type == "local":
        return block
    return math.lcm(block, config.global_block_size)


def _trace(model: Any, folder: Path, *, sequence_length: int) -> None:
    """Optimum's three graphs; its larger functions also look for files on the hub."""
    from optimum.exporters.onnx import export
    from optimum.exporters.utils import get_encoder_decoder_models_for_export

    config = _settings(model)
    for name, (part, settings) in get_encoder_decoder_models_for_export(model, config).items():
        shapes = {"sequence_length": sequence_length}
        export(part, settings, folder / f"{name}.onnx", opset=OPSETS[""], input_shapes=shapes)


def _settings(model: Any) -> Any:
    """How optimum exports the model."""
    from optimum.exporters.tasks import TasksManager

    if model.config.model_type == "encoder-decoder":
        return _pair_settings(model.config)
    constructor = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model=model, task=_TASK, library_name="transformers"
    )
    return constructor(model.config)


def _pair_settings(config: Any) -> Any:
    """The same for an encoder and a decoder that were trained apart, such as two BERTs.

    Optimum's own refuse BERT as a decoder, and let GPT-2 project the source anew at every step.
    """
    from optimum.exporters.onnx.model_configs import T5OnnxConfig
    from optimum.utils import NormalizedSeq2SeqConfig

    class Sizes(NormalizedSeq2SeqConfig):  # type: ignore[misc]
        HIDDEN_SIZE = "encoder.hidden_size"
        DECODER_NUM_LAYERS = "decoder.num_hidden_layers"
        # "Encoder" are the heads of cross-attention here.
        ENCODER_NUM_ATTENTION_HEADS = DECODER_NUM_ATTENTION_HEADS = "decoder.num_attention_heads"

        @property
        def vocab_size(self) -> int:
            """Tokens below it are known to both."""
            return int(min(self.config.encoder.vocab_size, self.config.decoder.vocab_size))

        @property
        def key_value_dim(self) -> int:
            """The width of a decoder's head."""
            return int(self.config.decoder.hidden_size // self.config.decoder.num_attention_heads)

    class Settings(T5OnnxConfig):  # type: ignore[misc]
        """T5's, as its heads need not be as wide as the encoder's hidden size says."""

        NORMALIZED_CONFIG_CLASS = Sizes

    return Settings(config, task=_TASK.removesuffix("-with-past"), use_past=True)


def _load(folder: Path, part: str, name: str) -> onnx.GraphProto:
    """A traced graph, its weights left where they lie if they lie beside it."""
    model = onnx.load(folder / f"{part}.onnx", load_external_data=False)
    known = {"input_ids", "attention_mask"}
    if part != _ENCODER:
        past = {item.name for item in model.graph.input if item.name.startswith("past_key_values.")}
        known = {"input_ids", "encoder_attention_mask", "encoder_hidden_states"} | past
    check_inputs(model, name, known)
    return model.graph


def _source_projections(traced: onnx.GraphProto, name: str) -> onnx.GraphProto:
    """What makes keys and values of the encoder's hidden states, cut out of the decoder of first tokens."""
    outputs = [item for item in traced.output if ".encoder." in item.name]
    makers = {output: node for node in traced.node for output in node.output}
    shapes = [shape for item in outputs for shape in _split_by_source(item, makers)]
    needed = _needed([item.name for item in outputs], makers)
    if not outputs or needed & {"input_ids", "encoder_attention_mask"}:
        raise ExportError(
            f"{name} mixes the decoder's tokens into the keys and values of the source",
            hint="only encoder-decoders with cross-attention can be exported",
        )
    cut = onnx.GraphProto(output=outputs)
    cut.node.extend(node for node in traced.node if needed & set(node.output))
    cut.initializer.extend(item for item in [*traced.initializer, *shapes] if item.name in needed)
    return cut


def _split_by_source(
    output: onnx.ValueInfoProto, makers: Mapping[str, onnx.NodeProto]
) -> list[onnx.TensorProto]:
    """Let the split into heads take the size of the batch from what it splits; the constant that it needs.

    Traced, it takes it from the decoder's rows, and so everything that the decoder computes would be needed.
    """
    transpose = makers[output.name]
    reshape = makers.get(transpose.input[0])
    if reshape is None or (transpose.op_type, reshape.op_type) != ("Transpose", "Reshape"):
        return []
    _, heads, _, head_size = axes_of(output)
    reshape.input[1] = f"{output.name}.heads"
    del reshape.attribute[:]  # with `allowzero`, the zero would not stand for the size of the batch
    return [numpy_helper.from_array(np.array([0, -1, heads, head_size]), reshape.input[1])]


def _needed(outputs: Iterable[str], makers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The names of everything that outputs are computed from."""
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers[name].input if name in makers else ()
    return needed


def _encoder(
    traced: onnx.GraphProto, projections: onnx.GraphProto, multiple: int, pad_id: int
) -> onnx.ModelProto:
    """input_ids (batch, sequence) to the keys and values of every decoder layer."""
    frame = Frame()
    ids, mask = "input_ids", frame.ones(frame.op("Shape", "input_ids"))
    states = "encoder." + traced.output[0].name
    if multiple == 1:
        frame.include(traced, "encoder.", {"input_ids": ids, "attention_mask": mask})
    else:
        length = frame.size("input_ids", 1)
        missing = frame.op("Mod", frame.op("Neg", length), frame.constant([multiple]))
        pads = frame.op("Concat", frame.constant([0, 0, 0]), missing, axis=0)
        ids = frame.op("Pad", ids, pads, frame.constant(pad_id))
        mask = frame.op("Pad", mask, pads)
        frame.include(traced, "encoder.", {"input_ids": ids, "attention_mask": mask})
        states = frame.op("Slice", states, frame.constant([0]), length, frame.constant([1]))
    cross = {item.name: _name("cross", item.name) for item in projections.output}
    frame.include(projections, "projections.", {"encoder_hidden_states": states} | cross)
    return frame.model(
        inputs={"input_ids": (INT64, ["batch", "sequence"])},
        outputs={cross[item.name]: cache_tensor(item, "batch", "sequence") for item in projections.output},
    )


def _decoder(traced: onnx.GraphProto) -> onnx.ModelProto:
    """One token of each row, and the cache, to the best next tokens."""
    frame = Frame()
    rows, sources = frame.size("input_ids", 0), frame.size("cross.0.key", 0)
    place = frame.op("Range", frame.constant(0), frame.op("Squeeze", rows), frame.constant(1))
    owners = frame.op("Div", place, frame.op("Div", rows, sources))  # the source of each row
    names, inputs, outputs = {"input_ids": "input_ids"}, dict(_STEP), dict(CHOICE)
    for item in traced.input:
        if not item.name.startswith("past_key_values."):
            continue
        if ".encoder." in item.name:
            name = _name("cross", item.name)
            inputs[name] = cache_tensor(item, "sources", "source")
            names[item.name] = frame.op("Gather", name, owners)
        else:
            name = _name("past", item.name)
            inputs[name] = cache_tensor(item, "past_rows", "past_length")
            names[item.name] = frame.op("Gather", name, "parents")
    shape = frame.op("Concat", rows, frame.size("cross.0.key", 2), axis=0)
    names["encoder_attention_mask"] = frame.ones(shape)
    for item in traced.output[1:]:
        names[item.name] = _name("present", item.name)
        outputs[names[item.name]] = cache_tensor(item, "rows", "present_length")
    frame.include(traced, "decoder.", names)
    logits = "decoder." + traced.output[0].name  # (rows, 1, vocabulary)
    choose(frame, frame.op("Squeeze", logits, frame.constant([1])))
    return frame.model(inputs=inputs, outputs=outputs)


def _name(kind: str, traced: str) -> str:
    """The engine's name for one of optimum's, such as past_key_values.0.decoder.key."""
    _, layer, _, part = traced.split(".")
    return f"{kind}.{layer}.{part}"
