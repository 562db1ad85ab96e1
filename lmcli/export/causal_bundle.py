"""`write_causal`: the export of a causal language model, from a GGUF file or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from lmcli.export.causal_source import FastModel, PlainModel, read_causal
from lmcli.export.causal_tokenizer import prove_causal_tokenizer, write_causal_tokenizer
from lmcli.export.conversion import Conversion
from lmcli.export.generation import generation_config
from lmcli.export.gguf import read_gguf
from lmcli.export.gguf_tokenizer import TokenFacts, write_gguf_tokenizer
from lmcli.export.packages import is_installed
from lmcli.export.prove import GRAPH_TOLERANCE, figures
from lmcli.export.prove_generator import prove_precision

Ints = npt.NDArray[np.int64]

# Beyond this, tables of positions cost more than most machines can use.
_CONTEXT_LENGTH = 32_768
# A model of billions of weights takes a second for each line, so the proof takes some of the lines, cut.
_PROOF_LINES = 10
_PROOF_TOKENS = 48
_NEW_TOKENS = 8
_MIN_TOKENS = 4


def write_causal(conversion: Conversion, name: str, directory: Path) -> Manifest:
    """Write graph, tokenizer and chat template into `directory`, proven; the manifest lacks its files."""
    gguf = conversion.checkpoint.gguf
    file = None if gguf is None else read_gguf(gguf)
    model, conversion = read_causal(conversion, file)
    length = _context_length(conversion, model)
    path = directory / "tokenizer.json"
    tokens = write_gguf_tokenizer(file, path) if file else write_causal_tokenizer(conversion, path)
    if tokens.chat_template is not None:
        (directory / CHAT_TEMPLATE_NAME).write_text(tokens.chat_template, encoding="utf-8")
    tokenizer = Tokenizer(path, context_length=length)
    rows = _rows(conversion, tokenizer, tokens)
    if file is None and is_installed("transformers"):
        prove_causal_tokenizer(conversion, tokenizer, rows)
    rows = _some(rows, length)
    generation, left_out = generation_config(
        conversion.checkpoint,
        conversion.config | {"eos_token_id": list(tokens.eos_token_ids)},
        conversion.task,
        max_positions=None,
    )
    if left_out:
        conversion.report(f"left out of its generation settings, unknown to lmcli: {', '.join(left_out)}")
    exact = model.write(conversion, directory / "model.onnx", length)
    _prove(conversion, model, tokenizer, rows, exact, directory / "model.onnx")
    return Manifest(
        name=name,
        task=conversion.task,
        model_type=conversion.config["model_type"],
        tier=model.tier,
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


def _context_length(conversion: Conversion, model: FastModel | PlainModel) -> int:
    length = conversion.options.context_length or _CONTEXT_LENGTH
    return min(length, model.max_positions or length)


def _rows(conversion: Conversion, tokenizer: Tokenizer, tokens: TokenFacts) -> list[Ints]:
    """The lines as the model reads them. Raises ExportError unless the tokenizer gives back each line.

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
        rows.append(np.concatenate([np.array(tokens.before, np.int64), row]))
    conversion.proof["tokenizer"] = {"lines": len(rows), "not_given_back": 0}
    conversion.report(f"tokenizer: gives back each of {len(rows)} lines")
    return rows


def _some(rows: Sequence[Ints], context_length: int) -> list[Ints]:
    """Those that the graph is proven on. Raises ExportError when there are none."""
    longest = min(_PROOF_TOKENS, context_length - _NEW_TOKENS)
    found = [row[:longest] for row in rows if min(len(row), longest) >= _MIN_TOKENS]
    if not found:
        raise ExportError(
            f"no line of the sample has {_MIN_TOKENS} tokens within a context of {context_length}",
            hint="the export is proven on longer lines, in a context of a dozen tokens or more",
        )
    return found[:: -(-len(found) // _PROOF_LINES)]


def _prove(
    conversion: Conversion,
    model: FastModel | PlainModel,
    tokenizer: Tokenizer,
    rows: Sequence[Ints],
    exact: Path,
    written: Path,
) -> None:
    """The float32 graph against the model, the wanted precision against it, and in a batch against alone."""
    proof, report = conversion.proof, conversion.report
    with _open(exact, tokenizer, model) as engine:
        proof["graph"] = facts = _prove_graph(engine, model, rows)
        report(f"graph: within {facts['max_difference']:.1e} of its definition on {facts['tokens']} tokens")
        with _open(written, tokenizer, model) as reduced:
            if conversion.precision != "fp32":
                logits = map(engine.logits, rows), map(reduced.logits, rows)
                proof["precision"] = agreement = prove_precision(*logits)
                report(
                    f"{conversion.precision}: {agreement['agreement']:.1%} of clear decisions as in float32"
                )
            tolerance = conversion.batch_tolerance(model.tier) * facts["max_logit"]
            proof["batch"] = facts = _prove_batches(reduced, rows, tolerance)
            report(f"batches: within {facts['max_difference']:.1e} of single lines")


@contextmanager
def _open(path: Path, tokenizer: Tokenizer, model: FastModel | PlainModel) -> Iterator[Causal]:
    session = Session(path, Device("cpu"), plans_memory=False)
    with Causal(session, tokenizer, vocab_size=model.vocab_size, threads=1) as engine:
        yield engine


def _prove_graph(engine: Causal, model: FastModel | PlainModel, rows: Sequence[Ints]) -> dict[str, float]:
    """Compare float32 logits with those of the model itself. Raises ExportError beyond the bound."""
    difference = scale = 0.0
    num_tokens = 0
    for row, expected in model.logits(rows, engine.context_length):
        # np.maximum, unlike max, keeps what is no number.
        difference = float(np.maximum(difference, np.abs(engine.logits(row) - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
        num_tokens += len(row)
    facts = {
        "max_difference": difference,
        "max_logit": scale,
        "bound": GRAPH_TOLERANCE * scale,
        "tokens": num_tokens,
    }
    # Written so that a difference that is no number fails.
    if not difference <= GRAPH_TOLERANCE * scale:
        raise ExportError(f"the graph differs from the model: {figures(facts)}")
    return facts


def _prove_batches(engine: Causal, rows: Sequence[Ints], tolerance: float) -> dict[str, float]:
    """Compare outputs and their scores together and alone. Raises ExportError beyond `tolerance`.

    Where there is one, outputs are of one token: with equally good ones, longer outputs may part.
    """
    config = GenerationConfig(eos_token_ids=(-1,), max_new_tokens=1 if tolerance else _NEW_TOKENS)
    rows = rows[::2]
    shortest = min(map(len, rows))
    rows = [*rows, *(row[:shortest] for row in rows)]  # also of equal length, as plain graphs want them
    sources = [Source(row, config.max_new_tokens) for row in rows]
    difference = 0.0
    for source, [together] in zip(sources, engine.generate(sources, config), strict=True):
        [[alone]] = engine.generate([source], config)
        difference = float(np.maximum(difference, abs(alone.score - together.score)))
    facts = {"max_difference": difference, "bound": tolerance}
    if not difference <= tolerance:
        raise ExportError(f"a line's output depends on its batch: {figures(facts)}")
    return facts
