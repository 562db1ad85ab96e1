"""`write_embedder`: the export of a sentence encoder, as sentence-transformers publishes them.

The graph is built from the weights alone. Where torch and transformers are installed, they prove the graph
and the tokenizer; else int8 is proven against float32, and each line against the same line in a batch.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import orjson

from lmcli.bundle.manifest import Manifest
from lmcli.engine.embedder import Floats
from lmcli.engine.encoder import Encoded
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import BundleError, ExportError
from lmcli.export import config as configs
from lmcli.export import prove
from lmcli.export.conversion import Conversion
from lmcli.export.encoder import FAMILIES, Pooled, Shape, build_embedder, shape_of
from lmcli.export.files import MODULES_NAME, POOLING_NAME, SENTENCES_NAME, plain
from lmcli.export.layers import Weights
from lmcli.export.packages import TRACING, is_installed, require
from lmcli.export.safetensors import read_safetensors
from lmcli.export.source import Checkpoint
from lmcli.export.tokenizer import context_length, load_source_tokenizer, num_positions, write_tokenizer
from lmcli.export.weights import read_json, read_weights, rejected

OUTPUT = "embeddings"
_CONTEXT_LENGTH = 512
# Of a reduced precision: the cosine of a line's embedding with that in float32, at worst and in the mean.
# all-MiniLM-L6-v2 has 0.976 and 0.996 in int8.
MIN_COSINE = 0.9
MIN_MEAN_COSINE = 0.98


class Pooling(NamedTuple):
    """How the vectors of the tokens become one for the text."""

    pooled: Pooled
    normalize: bool


def write_embedder(conversion: Conversion, name: str, directory: Path) -> Manifest:
    """Write graph and tokenizer into `directory`, each proven; the manifest still lacks its files."""
    checkpoint, config = conversion.checkpoint, conversion.config
    pooling = pooling_of(checkpoint)
    settings = _settings(config)
    shape = _shape(settings)
    family = FAMILIES[settings.model_type]
    weights = _weights(checkpoint, family.prefix)
    if any(each.startswith(family.prefix + family.layer.format(shape.num_layers)) for each in weights):
        raise ExportError(
            f"the checkpoint has more than the {shape.num_layers} layers of its config.json",
            hint="get the checkpoint again: its files belong to different models",
        )
    tokenizer = _convert_tokenizer(conversion, settings, directory / "tokenizer.json")
    grouped = conversion.options.device == "cpu"
    try:
        graph = build_embedder(
            weights, settings.model_type, shape, pooling.pooled, normalize=pooling.normalize, grouped=grouped
        )
        exact_path = conversion.save_exact(graph, "exact.onnx")
        exact = prove.encode(exact_path, tokenizer, conversion.lines, output=OUTPUT)
    except KeyError as error:
        raise ExportError(f"the checkpoint lacks weights of the model: {error.args[0]}") from error
    except (BundleError, ValueError) as error:
        raise rejected("the weights do not fit config.json", error) from error
    _prove_graph(conversion, pooling, exact)
    _reduce(conversion, graph, exact, tokenizer, directory / "model.onnx")
    return Manifest(
        name=name,
        task="feature-extraction",
        model_type=settings.model_type,
        tier="fast",
        precision=conversion.precision,
        device=conversion.options.device,
        context_length=tokenizer.context_length,
        inputs=tuple(item.name for item in graph.graph.input),
        source=conversion.provenance(),
        proof=conversion.proof,
    )


def pooling_of(checkpoint: Checkpoint) -> Pooling:
    """What the modules of a sentence-transformer say; without any, the mean, as sentence-transformers has it.

    Raises ExportError for modules and kinds of pooling that lmcli does not have.
    """
    if MODULES_NAME not in checkpoint.files:
        return Pooling("mean", normalize=False)
    modules = [str(module.get("type")).rpartition(".")[2] for module in _modules(checkpoint)]
    if modules[:2] != ["Transformer", "Pooling"] or modules[2:] not in ([], ["Normalize"]):
        raise ExportError(
            f"{checkpoint.id}: lmcli does not run the modules {', '.join(modules)}",
            hint="it runs a Transformer with Pooling, and with Normalize",
        )
    path = checkpoint.files.get(plain(POOLING_NAME))
    facts = read_json(path) if path else {}
    modes = {name.removeprefix("pooling_mode_") for name, on in facts.items() if on is True}
    kind = next((ours for ours, theirs in _MODES.items() if modes & set(_MODES.values()) == {theirs}), None)
    if kind is None or modes & _OTHER_MODES:
        raise ExportError(
            f"{checkpoint.id}: lmcli has no such pooling: {', '.join(sorted(modes)) or 'unknown'}",
            hint="it pools by the mean of all tokens, or by the first one",
        )
    return Pooling(kind, normalize="Normalize" in modules)


_MODES: Mapping[Pooled, str] = {"mean": "mean_tokens", "cls": "cls_token"}
_OTHER_MODES = {"max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"}


def _modules(checkpoint: Checkpoint) -> Sequence[Mapping[str, Any]]:
    path = checkpoint.files[MODULES_NAME]
    try:
        modules = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise rejected(f"{path} is not JSON", error, hint="get the checkpoint again") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ExportError(f"{path} is not a list of modules", hint="get the checkpoint again")
    return modules


def _settings(config: configs.Config) -> SimpleNamespace:
    """The configuration as an object, with the names that most architectures use."""
    names = {"n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "dim": "hidden_size"}
    distil = config["model_type"] == "distilbert"
    return SimpleNamespace(**{names.get(key, key) if distil else key: value for key, value in config.items()})


def _shape(settings: SimpleNamespace) -> Shape:
    """Raises ExportError for an architecture without a fast graph, and for a damaged configuration."""
    try:
        shape = shape_of(settings)
        for size in (settings.num_hidden_layers, settings.max_position_embeddings):
            operator.index(size)
    except (AttributeError, TypeError, ZeroDivisionError) as error:
        raise rejected("config.json does not describe its architecture", error) from error
    if shape is None:
        raise ExportError(
            f"lmcli has no sentence encoder of the architecture {settings.model_type!r} with these settings",
            hint=f"it has {', '.join(FAMILIES)}",
        )
    return shape


def _weights(checkpoint: Checkpoint, prefix: str) -> Weights:
    """The weights under the names that they have below a head; the model alone has them without `prefix`."""
    if any(name.endswith(".safetensors") for name in checkpoint.files):
        found = read_safetensors(checkpoint)
        # Old checkpoints hold the numbers of the positions, too, which are no weights.
        weights = {name: found[name] for name in found if not name.endswith(".position_ids")}
    else:
        require(*TRACING, by="a checkpoint with its weights as pickle")
        weights = {name: tensor.float().numpy() for name, tensor in read_weights(checkpoint).items()}
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {prefix + name: weight for name, weight in weights.items()}


def _convert_tokenizer(conversion: Conversion, settings: SimpleNamespace, path: Path) -> Tokenizer:
    checkpoint = conversion.checkpoint
    trained = _number(checkpoint, SENTENCES_NAME, "max_seq_length")
    wanted = conversion.options.context_length or trained or _CONTEXT_LENGTH
    if not is_installed("torch", "transformers"):
        return _copy_tokenizer(conversion, min(wanted, num_positions(settings) or wanted), path)
    source = load_source_tokenizer(checkpoint, conversion.config, conversion.folder("tokenizer"))
    write_tokenizer(source, path, keep_language=True)
    tokenizer = Tokenizer(path, context_length=context_length(source, settings, wanted))
    conversion.proof["tokenizer"] = prove.prove_tokenizer(source, tokenizer, conversion.lines)
    conversion.report(f"tokenizer: equal to the source on {len(conversion.lines)} lines")
    return tokenizer


def _copy_tokenizer(conversion: Conversion, length: int, path: Path) -> Tokenizer:
    """The checkpoint's own tokenizer.json, without the padding and truncation of a training run."""
    checkpoint = conversion.checkpoint
    if "tokenizer.json" not in checkpoint.files:
        require(*TRACING, by="a checkpoint without tokenizer.json")
    content = read_json(checkpoint.files["tokenizer.json"]) | {"padding": None, "truncation": None}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    limit = _number(checkpoint, "tokenizer_config.json", "model_max_length") or length
    try:
        return Tokenizer(path, context_length=min(length, limit))
    except BundleError as error:
        raise ExportError(
            f"{checkpoint.id}: the tokenizer is damaged: {error.message}", hint="get the checkpoint again"
        ) from error


def _number(checkpoint: Checkpoint, name: str, key: str) -> int | None:
    """A count that one of the JSON files says, where it says it."""
    path = checkpoint.files.get(name)
    number = read_json(path).get(key) if path else None
    return number if isinstance(number, int) and number > 0 else None


def _prove_graph(conversion: Conversion, pooling: Pooling, exact: Sequence[Encoded]) -> None:
    """Compare float32 embeddings with those of the torch model, where there is one to compare with."""
    if not is_installed("torch", "transformers"):
        return
    model = configs.load_model(conversion.checkpoint, conversion.config, "feature-extraction")
    difference = scale = 0.0
    for windows, rows in exact:
        for window, ours in zip(windows, rows, strict=True):
            theirs = _source_embedding(model, window.input_ids, pooling)
            # np.maximum, unlike max, keeps what is no number.
            difference = float(np.maximum(difference, np.abs(ours - theirs).max()))
            scale = max(scale, float(np.abs(theirs).max()))
    facts = {"max_difference": difference, "max_value": scale, "bound": prove.GRAPH_TOLERANCE * scale}
    if not difference <= facts["bound"]:
        raise ExportError(f"the graph differs from the source model: {prove.figures(facts)}")
    conversion.proof["graph"] = facts
    conversion.report(f"graph: within {difference:.1e} of torch")


def _source_embedding(model: Any, input_ids: npt.NDArray[np.int64], pooling: Pooling) -> Floats:
    """What sentence-transformers makes of one row: (sequence,) to (hidden,)."""
    import torch

    row = torch.from_numpy(input_ids)[None]
    with torch.inference_mode():
        hidden = model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]
    vector = hidden.mean(dim=0) if pooling.pooled == "mean" else hidden[0]
    if pooling.normalize:
        vector = torch.nn.functional.normalize(vector, dim=0)
    embedding: Floats = vector.numpy()
    return embedding


def _reduce(
    conversion: Conversion,
    graph: onnx.ModelProto,
    exact: Sequence[Encoded],
    tokenizer: Tokenizer,
    path: Path,
) -> None:
    """Write the graph in its precision, proven against float32, and in a batch against alone."""
    conversion.save(graph, path, keep=[OUTPUT])
    if conversion.precision != "fp32":
        reduced = prove.encode(path, tokenizer, conversion.lines, output=OUTPUT)
        facts = conversion.proof["precision"] = _prove_precision(_rows(exact), _rows(reduced))
        conversion.report(
            f"{conversion.precision}: cosine {facts['mean_cosine']:.4f} with float32, "
            f"{facts['lowest_cosine']:.4f} at worst"
        )
    tolerance = conversion.batch_tolerance("fast")
    batch = prove.prove_batches(path, exact, tokenizer, tolerance=tolerance, output=OUTPUT)
    conversion.proof["batch"] = batch
    conversion.report(f"batches: within {batch['max_difference']:.1e} of single lines")


def _rows(encoded: Sequence[Encoded]) -> Floats:
    """The embeddings of all windows: (windows, hidden)."""
    return np.stack([row for _, rows in encoded for row in rows])


def _prove_precision(exact: Floats, reduced: Floats) -> dict[str, float]:
    """Compare the directions of embeddings, (windows, hidden) each. Raises ExportError beyond the bounds."""
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(reduced, axis=1)
    cosines = (exact * reduced).sum(axis=1) / norms
    facts = {
        "lowest_cosine": float(cosines.min()),
        "lowest_bound": MIN_COSINE,
        "mean_cosine": float(cosines.mean()),
        "mean_bound": MIN_MEAN_COSINE,
    }
    if not (facts["lowest_cosine"] >= MIN_COSINE and facts["mean_cosine"] >= MIN_MEAN_COSINE):
        raise ExportError(
            f"the reduced precision changes the model too much: {prove.figures(facts)}",
            hint="export with `--precision fp32`",
        )
    return facts
