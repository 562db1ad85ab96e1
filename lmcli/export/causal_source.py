"""`read_causal`: a causal language model as its export needs it, with a fast graph or a plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lmcli.bundle.manifest import Tier
from lmcli.errors import ExportError, UsageError
from lmcli.export import config as configs
from lmcli.export import reference
from lmcli.export.block_layers import BlockLayers
from lmcli.export.causal import SCORED, build_causal, head_of
from lmcli.export.causal_names import as_llama, wanted_shapes
from lmcli.export.causal_shape import FAMILY, CausalShape, shape_of
from lmcli.export.choice import CHOICE, CHOICE_PREFIX
from lmcli.export.conversion import Conversion
from lmcli.export.files import SAFETENSORS
from lmcli.export.gguf import GgufFile
from lmcli.export.gguf_blocks import Blocks
from lmcli.export.layers import Layers, Weights
from lmcli.export.packages import TRACING, is_installed, require
from lmcli.export.plain_causal import build_plain_causal, longest_text
from lmcli.export.rotate import rotate
from lmcli.export.safetensors import read_safetensors
from lmcli.export.source import Checkpoint
from lmcli.export.weights import read_weights

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def read_causal(conversion: Conversion, file: GgufFile | None) -> tuple[FastModel | PlainModel, Conversion]:
    """The model, and the conversion with the precision that suits it. file: the checkpoint, if it is GGUF.

    Raises ExportError for an architecture that lmcli cannot export, and for weights that do not fit it.
    """
    checkpoint, config, options = conversion.checkpoint, conversion.config, conversion.options
    shape = shape_of(config)
    if file is not None:
        if shape is None:
            raise ExportError(
                f"{checkpoint.id}: lmcli runs no GGUF of a {config['model_type']} model with these settings",
                hint="export the checkpoint that the file was made from",
            )
        return FastModel(shape=shape, weights=file.weights, blocks=file.blocks), conversion
    if shape is not None:
        return FastModel(shape=shape, weights=_fitting(conversion, shape)), conversion
    if options.precision == "blocks":
        raise UsageError(
            f"--precision blocks is not for a {config['model_type']} model with these settings",
            hint=f"use int8; blocks are for {', '.join(sorted(FAMILY))}",
        )
    require(*TRACING, by=f"a {config['model_type']} model like {checkpoint.id}")
    if options.precision is None and options.device == "cpu":
        conversion = replace(conversion, options=replace(options, precision="int8"))
    return PlainModel(configs.load_model(checkpoint, config, conversion.task)), conversion


def _no_blocks(_: str) -> Blocks | None:
    """A checkpoint has floats only."""
    return None


@dataclass(frozen=True, kw_only=True)
class FastModel:
    """A model of which the weights are all that is needed, under the names of a Llama."""

    shape: CausalShape
    weights: Weights
    blocks: Callable[[str], Blocks | None] = _no_blocks
    """Those of a matrix that is quantized already."""
    tier: ClassVar[Tier] = "fast"

    @property
    def max_positions(self) -> int:
        """The longest text that it knows."""
        return self.shape.max_positions

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens the output layer knows."""
        return len(self.weights[head_of(self.weights) + ".weight"])

    def write(self, conversion: Conversion, path: Path, context_length: int) -> Path:
        """Write the graph in the precision of the export; the path of the one in float32."""
        if conversion.precision == "fp32":
            self._save(conversion, Layers(self.weights), path, context_length)
            return path
        exact = replace(conversion, options=replace(conversion.options, precision="fp32"))
        exact_path = conversion.folder("exact") / "model.onnx"
        self._save(exact, Layers(self.weights), exact_path, context_length)
        self._save(conversion, self._layers(conversion), path, context_length)
        return exact_path

    def logits(self, rows: Iterable[Ints], context_length: int) -> Iterator[tuple[Ints, Floats]]:
        """One text made of the rows, and what the model thinks may follow each token: (tokens, vocabulary).

        By numpy, which takes as long for few tokens as for many.
        """
        row = np.concatenate(list(rows))[: min(_NUMPY_TOKENS, context_length)]
        yield row, reference.logits(self.weights, self.shape, row)

    def _save(self, conversion: Conversion, layers: Layers, path: Path, context_length: int) -> None:
        in_place = conversion.options.device == "cpu"
        graph = build_causal(layers, self.shape, context_length=context_length, in_place=in_place)
        conversion.save(graph, path, keep=[*CHOICE, *SCORED], keep_nodes=CHOICE_PREFIX, beside=True)

    def _layers(self, conversion: Conversion) -> Layers:
        """The weights as the precision wants them."""
        match conversion.precision:
            case "blocks":
                return BlockLayers(self.weights, self.blocks)
            case "int8":
                return Layers(rotate(self.weights, self.shape))
            case _:
                return Layers(self.weights)


_NUMPY_TOKENS = 64


@dataclass(frozen=True)
class PlainModel:
    """A model as transformers builds it, for optimum to trace."""

    model: Any
    tier: ClassVar[Tier] = "plain"

    @property
    def max_positions(self) -> int | None:
        """The longest text that it knows; None: any."""
        return longest_text(self.model.config)

    @property
    def vocab_size(self) -> int:
        """How many tokens the output layer knows."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def write(self, conversion: Conversion, path: Path, context_length: int) -> Path:  # noqa: ARG002
        """Write the graph in the precision of the export; the path of the one in float32."""
        graph = build_plain_causal(self.model, scratch=conversion.folder("plain"))
        exact_path = conversion.folder("exact") / "model.onnx"
        conversion.save_exact(graph, "exact/model.onnx")
        conversion.save(graph, path, keep=[*CHOICE, *SCORED], keep_nodes=CHOICE_PREFIX, beside=True)
        return exact_path

    def logits(self, rows: Iterable[Ints], context_length: int) -> Iterator[tuple[Ints, Floats]]:  # noqa: ARG002
        """Each row, and what the model thinks may follow each token: (tokens, vocabulary)."""
        import torch

        for row in rows:
            with torch.inference_mode():
                yield row, self.model(torch.from_numpy(row)[None]).logits[0].numpy()


def _fitting(conversion: Conversion, shape: CausalShape) -> Weights:
    """The weights of a checkpoint. Raises ExportError where they are not those that config.json speaks of."""
    config = conversion.config
    weights = as_llama(_read_weights(conversion.checkpoint), config["model_type"], shape)
    try:
        wanted = wanted_shapes(config, shape, weights)
    except (KeyError, TypeError) as error:
        raise ExportError(f"config.json makes no {config['model_type']} model: {error!r}") from error
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ExportError(
            f"the checkpoint lacks weights of the model: {', '.join(missing[:4])}"
            + (", ..." if len(missing) > 4 else ""),
            hint="get the checkpoint again",
        )
    return _Fitting(weights, wanted)


def _read_weights(checkpoint: Checkpoint) -> Weights:
    """From safetensors, and where there are none by torch, if it is installed."""
    if any(map(SAFETENSORS.fullmatch, checkpoint.files)) or not is_installed("torch"):
        return read_safetensors(checkpoint)
    return {name: tensor.float().numpy() for name, tensor in read_weights(checkpoint).items()}


class _Fitting(Mapping[str, Floats]):
    """Weights of known shapes; others are not there."""

    def __init__(self, weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._weights = weights
        self._shapes = shapes

    def __getitem__(self, name: str) -> Floats:
        wanted = self._shapes[name]
        if (value := self._weights[name]).shape != wanted:
            raise ExportError(
                f"{name} is {value.shape}, where config.json wants {wanted}",
                hint="get the checkpoint again: its files belong to different models",
            )
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:  # without this, asking would read the weight
        return name in self._shapes
