"""`export`: fetch, build, quantize, prove, write. The steps of `lmcli export` in the order of their names."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from lmcli.bundle.manifest import MANIFEST_NAME, Activation, Device, Manifest, Precision, Task, Tier
from lmcli.bundle.write import file_facts, new_bundle
from lmcli.engine.encoder import Encoded
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import ExportError, UsageError
from lmcli.export import config as configs
from lmcli.export import prove
from lmcli.export.card import model_card
from lmcli.export.encoder import build_encoder, shape_of
from lmcli.export.plain import build_plain
from lmcli.export.quantize import quantize
from lmcli.export.source import Checkpoint, fetch
from lmcli.export.tokenizer import context_length, load_source_tokenizer, write_tokenizer

# A protobuf cannot be larger than 2 GiB; weights beyond that go beside the graph.
_MAX_PROTOBUF = 2**31 - 2**20
_TOOLS = ("lmcli", "onnxruntime-gpu", "onnxruntime", "optimum-onnx", "transformers", "torch", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint."""

    task: Task | None = None
    """None: what the checkpoint was trained for, by its architecture's name."""
    precision: Precision | None = None
    """None: int8 for the CPU, fp16 for CUDA."""
    device: Device = "cpu"
    context_length: int = 512
    """The longest row; longer texts are read in windows. At most what the model allows."""
    lines: tuple[str, ...] = ()
    """Lines to prove the export on, instead of the built-in sample."""
    license: str | None = None
    """The license of the model, where the source does not name it."""
    notes: str = ""
    """Markdown for the model card: data, limits, measured quality."""
    allow_pickle: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a precision that the device does not run."""
        if self.device == "cuda" and self.precision == "int8":
            raise UsageError(
                "int8 is for the CPU: its integer kernels have no CUDA form",
                hint="use `--precision fp16` with `--device cuda`",
            )


def export(
    source: str,
    name: str,
    options: ExportOptions,
    *,
    parent: Path,
    report: Callable[[str], None],
    progress: bool = False,
) -> Path:
    """Export the checkpoint `source` as the bundle `name` in `parent`; its directory.

    `report` hears of each step. Raises ExportError with the figures when a proof fails: then nothing is left.
    """
    with new_bundle(parent, name, force=options.force) as directory:
        checkpoint = fetch(source, allow_pickle=options.allow_pickle, progress=progress)
        report(f"read {checkpoint.id}" + (f" at {checkpoint.revision}" if checkpoint.revision else ""))
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch, _quiet():
            manifest = _Export(checkpoint, options, Path(scratch), report).write(name, directory)
        card = model_card(manifest, notes=options.notes, source_card=checkpoint.card)
        (directory / "README.md").write_text(card, encoding="utf-8")
        manifest = replace(manifest, files=file_facts(directory))
        (directory / MANIFEST_NAME).write_bytes(manifest.to_json())
    return parent / name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters log, warn and print away from the user's terminal, and stdout for data."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class _Export:
    """One export at work: `write` runs the steps, each proof right after what it proves."""

    def __init__(
        self, checkpoint: Checkpoint, options: ExportOptions, scratch: Path, report: Callable[[str], None]
    ) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._scratch = scratch
        self._report = report
        self._lines: Sequence[str] = options.lines or prove.sample_lines()
        self._proof: dict[str, Any] = {}

    def write(self, name: str, directory: Path) -> Manifest:
        """Write graph and tokenizer into `directory`; the manifest still lacks its files."""
        options = self._options
        config = configs.sanitize(configs.load_config(self._checkpoint))
        task = options.task or _known_task(config, self._checkpoint)
        precision = options.precision or ("fp16" if options.device == "cuda" else "int8")
        model = configs.load_model(self._checkpoint, config, task)
        tokenizer = self._convert_tokenizer(config, model.config, directory / "tokenizer.json")
        graph, tier = self._build(model, task)
        exact = self._prove_graph(graph, model, tokenizer)
        self._reduce(graph, precision, exact, tokenizer, directory / "model.onnx", tier)
        return Manifest(
            name=name,
            task=task,
            model_type=model.config.model_type,
            tier=tier,
            precision=precision,
            device=options.device,
            labels=configs.labels(config),
            activation=_activation(config, task),
            context_length=tokenizer.context_length,
            inputs=tuple(item.name for item in graph.graph.input),
            source=_provenance(self._checkpoint, self._options.license),
            proof=self._proof,
        )

    def _convert_tokenizer(self, config: dict[str, Any], settings: Any, path: Path) -> Tokenizer:
        folder = self._scratch / "tokenizer"
        folder.mkdir()
        source = load_source_tokenizer(self._checkpoint, config, folder)
        length = context_length(source, settings, self._options.context_length)
        write_tokenizer(source, path)
        tokenizer = Tokenizer(path, context_length=length)
        self._proof["tokenizer"] = prove.prove_tokenizer(source, tokenizer, self._lines)
        self._report(f"tokenizer: equal to the source on {len(self._lines)} lines")
        return tokenizer

    def _build(self, model: Any, task: Task) -> tuple[onnx.ModelProto, Tier]:
        shape = shape_of(model.config)
        if shape is None:
            folder = self._scratch / "plain"
            folder.mkdir()
            return build_plain(model, task=task, scratch=folder), "plain"
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        fused = self._options.device == "cpu"
        return build_encoder(weights, model.config.model_type, shape, task, grouped=fused), "fast"

    def _prove_graph(self, graph: onnx.ModelProto, model: Any, tokenizer: Tokenizer) -> list[Encoded]:
        path = self._scratch / "exact.onnx"
        _save(graph, path)
        exact = prove.encode(path, tokenizer, self._lines)
        self._proof["graph"] = prove.prove_graph(model, exact)
        self._report(f"graph: within {self._proof['graph']['max_difference']:.1e} of torch")
        return exact

    def _reduce(
        self,
        graph: onnx.ModelProto,
        precision: Precision,
        exact: Sequence[Encoded],
        tokenizer: Tokenizer,
        path: Path,
        tier: Tier,
    ) -> None:
        """Write the graph in its precision, proven against float32, and in a batch against alone."""
        if precision == "int8":
            quantize(graph)
        elif precision == "fp16":
            graph = _to_fp16(graph)
        _save(graph, path)
        if precision != "fp32":
            reduced = prove.encode(path, tokenizer, self._lines)
            facts = self._proof["precision"] = prove.prove_precision(exact, reduced)
            self._report(f"{precision}: {facts['agreement']:.1%} of clear decisions as in float32")
        tolerance = 0.0 if tier == "fast" else prove.PLAIN_BATCH_TOLERANCE
        tolerance = prove.FP16_BATCH_TOLERANCE if precision == "fp16" else tolerance
        self._proof["batch"] = prove.prove_batches(path, exact, tokenizer, tolerance=tolerance)
        self._report(f"batches: within {self._proof['batch']['max_difference']:.1e} of single lines")


def _known_task(config: dict[str, Any], checkpoint: Checkpoint) -> Task:
    if task := configs.task_of(config):
        return task
    raise ExportError(
        f"{checkpoint.id} was trained for no task that lmcli runs: {config.get('architectures')}",
        hint="text-classification and token-classification can be exported; --task names one",
    )


def _activation(config: dict[str, Any], task: Task) -> Activation:
    """As transformers' pipelines choose it."""
    if task == "token-classification":
        return "softmax"
    if config.get("problem_type") == "regression":
        return "none"
    return "sigmoid" if configs.is_multi_label(config) or len(configs.labels(config)) == 1 else "softmax"


def _to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(graph, keep_io_types=True)
    return half


def _save(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph, with weights beyond the limit of a protobuf beside it."""
    beside = graph.ByteSize() > _MAX_PROTOBUF
    onnx.save(graph, path, save_as_external_data=beside, location=f"{path.name}.data" if beside else None)
    if beside:  # saving has moved the weights out of `graph`, which goes on to be quantized
        onnx.load_external_data_for_model(graph, str(path.parent))


def _provenance(checkpoint: Checkpoint, license_: str | None) -> dict[str, Any]:
    """Where a bundle comes from. A directory is named by its last part: paths are the user's own business."""
    tools = {}
    for tool in _TOOLS:
        try:
            tools[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    model = checkpoint.id if checkpoint.kind == "hub" else checkpoint.path.resolve().name
    return {
        "kind": checkpoint.kind,
        "model": model,
        "revision": checkpoint.revision,
        "license": license_ or checkpoint.license,
        "tools": tools,
    }
