"""`write_causal`: the export of a causal language model, from a GGUF file or a checkpoint, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmcli.bundle.manifest import CHAT_TEMPLATE_NAME, CausalFacts, Manifest
from lmcli.engine.causal import Causal
from lmcli.engine.devices import Device
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Source
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import TokenizeError, Tokenizer
from lmcli.errors import ExportError
from lmcli.export import reference
from lmcli.export.block_layers import BlockLayers
from lmcli.export.causal import FAMILY, SCORED, CausalShape, build_causal, head_of, shape_of
from lmcli.export.causal_tokenizer import write_causal_tokenizer
from lmcli.export.conversion import Conversion
from lmcli.export.generation import generation_config
from lmcli.export.gguf import read_gguf
from lmcli.export.gguf_blocks import Blocks
from lmcli.export.gguf_tokenizer import TokenFacts, write_gguf_tokenizer
from lmcli.export.layers import Layers, Weights
from lmcli.export.prove import GRAPH_TOLERANCE, figures
from lmcli.export.prove_generator import prove_precision
from lmcli.export.rotate import rotate
from lmcli.export.safetensors import read_safetensors
from lmcli.export.seq2seq import CHOICE, CHOICE_PREFIX

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Beyond this, tables of positions cost more than most machines can use.
_CONTEXT_LENGTH = 32_768
# A model of billions of weights takes a second for each line, so the proof takes some of the lines, cut; and
# of those some for numpy, which is slowest.
_PROOF_LINES = 16
_PROOF_TOKENS = 48
_NUMPY_LINES = 4
_MIN_TOKENS = 4


def _no_blocks(_: str) -> Blocks | None:
    """A checkpoint has floats only."""
    return None


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What is read from a source."""

    shape: CausalShape
    weights: Weights
    blocks: Callable[[str], Blocks | None] = _no_blocks
    """Those of a matrix that is quantized already."""

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens the output layer knows."""
        return len(self.weights[head_of(self.weights) + ".weight"])


def write_causal(conversion: Conversion, name: str, directory: Path) -> Manifest:
    """Write graph, tokenizer and chat template into `directory`, proven; the manifest lacks its files."""
    model = _read(conversion)
    length = _context_length(conversion, model.shape)
    tokens = _write_tokenizer(conversion, directory / "tokenizer.json")
    if tokens.chat_template is not None:
        (directory / CHAT_TEMPLATE_NAME).write_text(tokens.chat_template, encoding="utf-8")
    tokenizer = Tokenizer(directory / "tokenizer.json", context_length=length)
    rows = _rows(conversion, tokenizer, tokens)
    exact = conversion.folder("exact") / "model.onnx"
    graph = build_causal(Layers(model.weights), model.shape, context_length=length, in_place=True)
    conversion.save_exact(graph, "exact/model.onnx")
    del graph  # it has the weights in float32
    in_place = conversion.options.device == "cpu"
    graph = build_causal(_layers(conversion, model), model.shape, context_length=length, in_place=in_place)
    conversion.save(
        graph, directory / "model.onnx", keep=[*CHOICE, *SCORED], keep_nodes=CHOICE_PREFIX, beside=True
    )
    _prove(conversion, model, tokenizer, rows, exact, directory / "model.onnx")
    generation, left_out = generation_config(
        conversion.checkpoint,
        conversion.config | {"eos_token_id": list(tokens.eos_token_ids)},
        conversion.task,
        max_positions=None,
    )
    if left_out:
        conversion.report(f"left out of its generation settings, unknown to lmcli: {', '.join(left_out)}")
    return Manifest(
        name=name,
        task=conversion.task,
        model_type=conversion.config["model_type"],
        tier="fast",
        precision=conversion.precision,
        device=conversion.options.device,
        context_length=length,
        inputs=("input_ids",),
        causal=CausalFacts(
            generation=replace(generation, eos_token_ids=tokens.eos_token_ids),
            vocab_size=model.vocab_size,
            before=tokens.before,
            special_tokens=tokens.special_tokens,
        ),
        source=conversion.provenance(),
        proof=conversion.proof,
    )


def _read(conversion: Conversion) -> _Model:
    """Raises ExportError for an architecture without a fast graph."""
    checkpoint, config = conversion.checkpoint, conversion.config
    shape = shape_of(config)
    if shape is None:
        raise ExportError(
            f"{checkpoint.id}: lmcli runs no {config.get('model_type')!r} model with these settings yet",
            hint=f"it runs {', '.join(sorted(FAMILY))}",
        )
    if checkpoint.gguf is not None:
        file = read_gguf(checkpoint.gguf)
        return _Model(shape=shape, weights=file.weights, blocks=file.blocks)
    return _Model(shape=shape, weights=read_safetensors(checkpoint))


def _layers(conversion: Conversion, model: _Model) -> Layers:
    """The weights as the precision wants them."""
    match conversion.precision:
        case "blocks":
            return BlockLayers(model.weights, model.blocks)
        case "int8":
            return Layers(rotate(model.weights, model.shape))
        case _:
            return Layers(model.weights)


def _context_length(conversion: Conversion, shape: CausalShape) -> int:
    return min(conversion.options.context_length or _CONTEXT_LENGTH, shape.max_positions)


def _write_tokenizer(conversion: Conversion, path: Path) -> TokenFacts:
    checkpoint = conversion.checkpoint
    if checkpoint.gguf is not None:
        return write_gguf_tokenizer(read_gguf(checkpoint.gguf), path)
    return write_causal_tokenizer(conversion, path)


def _rows(conversion: Conversion, tokenizer: Tokenizer, tokens: TokenFacts) -> list[Ints]:
    """Lines to prove the graph on. Raises ExportError unless the tokenizer gives back each line.

    Spaces do not count: some models write none before punctuation, or one at the beginning.
    """
    found = tokenizer.encode(conversion.lines)
    rows = []
    for line, row in zip(conversion.lines, found, strict=True):
        if isinstance(row, TokenizeError):
            raise ExportError(f"the tokenizer refuses {line[:40]!r}: {row}")
        [text] = tokenizer.decode([row.tolist()])
        if "".join(text.split()) != "".join(line.split()) and "\ufffd" not in text:
            raise ExportError(f"the tokenizer does not give back {line[:60]!r}, but {text[:60]!r}")
        rows.append(np.concatenate([np.array(tokens.before, np.int64), row])[:_PROOF_TOKENS])
    conversion.proof["tokenizer"] = {"lines": len(rows), "not_given_back": 0}
    conversion.report(f"tokenizer: gives back each of {len(rows)} lines")
    long_enough = [row for row in rows if len(row) >= _MIN_TOKENS]
    return long_enough[:: max(1, len(long_enough) // _PROOF_LINES)]


def _prove(
    conversion: Conversion,
    model: _Model,
    tokenizer: Tokenizer,
    rows: Sequence[Ints],
    exact: Path,
    written: Path,
) -> None:
    """The float32 graph against numpy, the wanted precision against it, and in a batch against alone."""
    proof, report = conversion.proof, conversion.report
    with _open(exact, tokenizer, model) as engine:
        proof["graph"] = facts = _prove_graph(engine, model, rows[:: max(1, len(rows) // _NUMPY_LINES)])
        report(f"graph: within {facts['max_difference']:.1e} of its definition on {facts['tokens']} tokens")
        with _open(written, tokenizer, model) as reduced:
            if conversion.precision != "fp32":
                logits = map(engine.logits, rows), map(reduced.logits, rows)
                proof["precision"] = facts = prove_precision(*logits)
                report(f"{conversion.precision}: {facts['agreement']:.1%} of clear decisions as in float32")
            proof["batch"] = facts = _prove_batches(reduced, rows, conversion.batch_tolerance("fast"))
            report(f"batches: within {facts['max_difference']:.1e} of single lines")


@contextmanager
def _open(path: Path, tokenizer: Tokenizer, model: _Model) -> Iterator[Causal]:
    session = Session(path, Device("cpu"))
    with Causal(session, tokenizer, vocab_size=model.vocab_size, threads=1) as engine:
        yield engine


def _prove_graph(engine: Causal, model: _Model, rows: Sequence[Ints]) -> dict[str, float]:
    """Compare float32 logits with those of plain numpy. Raises ExportError beyond the bound."""
    weights = _Kept(model.weights)
    difference = scale = 0.0
    for row in rows:
        expected = reference.logits(weights, model.shape, row)
        # np.maximum, unlike max, keeps what is no number.
        difference = float(np.maximum(difference, np.abs(engine.logits(row) - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    facts = {
        "max_difference": difference,
        "max_logit": scale,
        "bound": GRAPH_TOLERANCE * scale,
        "tokens": sum(map(len, rows)),
    }
    # Written so that a difference that is no number fails.
    if not difference <= GRAPH_TOLERANCE * scale:
        raise ExportError(f"the graph differs from the model: {figures(facts)}")
    return facts


def _prove_batches(engine: Causal, rows: Sequence[Ints], tolerance: float) -> dict[str, float]:
    """Compare outputs and their scores together and alone. Raises ExportError beyond `tolerance`."""
    config = GenerationConfig(eos_token_ids=(-1,), max_new_tokens=8)
    sources = [Source(row, config.max_new_tokens) for row in rows]
    difference = 0.0
    for source, [together] in zip(sources, engine.generate(sources, config), strict=True):
        [[alone]] = engine.generate([source], config)
        difference = float(np.maximum(difference, abs(alone.score - together.score)))
    facts = {"max_difference": difference, "bound": tolerance}
    if not difference <= tolerance:
        raise ExportError(f"a line's output depends on its batch: {figures(facts)}")
    return facts


class _Kept(dict[str, Floats]):
    """Weights that stay once they were made."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        super().__init__()

    def __missing__(self, name: str) -> Floats:
        self[name] = value = self._weights[name]
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._weights
