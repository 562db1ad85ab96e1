"""`write_classifier`: the export of a model that labels texts or tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from lmcli.bundle.manifest import Activation, Manifest, Tier
from lmcli.engine.encoder import Encoded
from lmcli.engine.tokenizer import Tokenizer
from lmcli.export import config as configs
from lmcli.export import prove
from lmcli.export.conversion import Conversion
from lmcli.export.encoder import build_encoder, shape_of
from lmcli.export.plain import build_plain
from lmcli.export.tokenizer import context_length, load_source_tokenizer, write_tokenizer

_CONTEXT_LENGTH = 512


def write_classifier(conversion: Conversion, name: str, directory: Path) -> Manifest:
    """Write graph and tokenizer into `directory`, each proven; the manifest still lacks its files."""
    task, config = conversion.task, conversion.config
    model = configs.load_model(conversion.checkpoint, config, task)
    tokenizer = _convert_tokenizer(conversion, model.config, directory / "tokenizer.json")
    graph, tier = _build(conversion, model)
    exact = _prove_graph(conversion, graph, model, tokenizer)
    _reduce(conversion, graph, exact, tokenizer, directory / "model.onnx", tier)
    return Manifest(
        name=name,
        task=task,
        model_type=model.config.model_type,
        tier=tier,
        precision=conversion.precision,
        device=conversion.options.device,
        labels=configs.labels(config),
        activation=_activation(config, task),
        context_length=tokenizer.context_length,
        inputs=tuple(item.name for item in graph.graph.input),
        source=conversion.provenance(),
        proof=conversion.proof,
    )


def _convert_tokenizer(conversion: Conversion, settings: Any, path: Path) -> Tokenizer:
    source = load_source_tokenizer(conversion.checkpoint, conversion.config, conversion.folder("tokenizer"))
    length = context_length(source, settings, conversion.options.context_length or _CONTEXT_LENGTH)
    write_tokenizer(source, path, keep_language=True)
    tokenizer = Tokenizer(path, context_length=length)
    conversion.proof["tokenizer"] = prove.prove_tokenizer(source, tokenizer, conversion.lines)
    conversion.report(f"tokenizer: equal to the source on {len(conversion.lines)} lines")
    return tokenizer


def _build(conversion: Conversion, model: Any) -> tuple[onnx.ModelProto, Tier]:
    shape = shape_of(model.config)
    if shape is None:
        return build_plain(model, task=conversion.task, scratch=conversion.folder("plain")), "plain"
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    fused = conversion.options.device == "cpu"
    return build_encoder(weights, model.config.model_type, shape, conversion.task, grouped=fused), "fast"


def _prove_graph(
    conversion: Conversion, graph: onnx.ModelProto, model: Any, tokenizer: Tokenizer
) -> list[Encoded]:
    exact = prove.encode(conversion.save_exact(graph, "exact.onnx"), tokenizer, conversion.lines)
    facts = conversion.proof["graph"] = prove.prove_graph(model, exact)
    conversion.report(f"graph: within {facts['max_difference']:.1e} of torch")
    return exact


def _reduce(
    conversion: Conversion,
    graph: onnx.ModelProto,
    exact: list[Encoded],
    tokenizer: Tokenizer,
    path: Path,
    tier: Tier,
) -> None:
    """Write the graph in its precision, proven against float32, and in a batch against alone."""
    conversion.save(graph, path, keep=["logits"])
    if conversion.precision != "fp32":
        reduced = prove.encode(path, tokenizer, conversion.lines)
        facts = conversion.proof["precision"] = prove.prove_precision(exact, reduced)
        conversion.report(
            f"{conversion.precision}: {facts['agreement']:.1%} of clear decisions as in float32"
        )
    tolerance = conversion.batch_tolerance(tier)
    batch = conversion.proof["batch"] = prove.prove_batches(path, exact, tokenizer, tolerance=tolerance)
    conversion.report(f"batches: within {batch['max_difference']:.1e} of single lines")


def _activation(config: configs.Config, task: str) -> Activation:
    """As transformers' pipelines choose it."""
    if task == "token-classification":
        return "softmax"
    if config.get("problem_type") == "regression":
        return "none"
    return "sigmoid" if configs.is_multi_label(config) or len(configs.labels(config)) == 1 else "softmax"
