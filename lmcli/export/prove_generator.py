"""The proof of an encoder-decoder's export, on the sample lines; `prove` has the one for classifiers.

Outputs are generated with the float32 graphs. Then the logits of each of their tokens are compared: with
torch's, with those of the wanted precision, and with those of the same line among others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmcli.bundle.manifest import Language, Seq2SeqFacts
from lmcli.engine.devices import Device
from lmcli.engine.search import Source
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import TokenizeError, Tokenizer
from lmcli.errors import ExportError
from lmcli.export.prove import CLEAR_LEAD, GRAPH_TOLERANCE, LOGITS_TOLERANCE, MIN_AGREEMENT, figures, lead

Floats = npt.NDArray[np.float32]
Outputs = Sequence[Sequence[int]]

# Enough to leave the beginning behind; a large vocabulary has a megabyte of logits for each token.
_MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Sample:
    """The lines as sources, in turn into every language that the model knows."""

    sources: Sequence[Source]
    starts: Sequence[Sequence[int]]
    """What the decoder reads of each source before the first token that it chooses."""
    facts: Seq2SeqFacts
    tokenizer: Tokenizer

    @classmethod
    def take(cls, facts: Seq2SeqFacts, tokenizer: Tokenizer, lines: Sequence[str]) -> Sample:
        """Raises ExportError if the tokenizer refuses a line."""
        generation = facts.generation
        from_ = list(facts.source_languages.values()) or [Language()]
        to = list(facts.target_languages.values()) or [Language()]
        sources, starts = [], []
        for number, line in enumerate(lines):
            frame = from_[number % len(from_)].into(to[number % len(to)])
            ids = tokenizer.encode([facts.prompt + frame.prompt + line])[0]
            if isinstance(ids, TokenizeError):
                raise ExportError(f"the tokenizer refuses {line[:40]!r}: {ids}")
            room = tokenizer.context_length - len(frame.before) - len(frame.after)
            ids = ids if len(ids) <= room else np.append(ids[: room - 1], ids[-1:])
            row = np.concatenate([frame.before, ids, frame.after]).astype(np.int64)
            first, start = frame.forced_bos_token_id, frame.decoder_start_token_id
            first = generation.forced_bos_token_id if first is None else first
            start = generation.decoder_start_token_id if start is None else start
            assert start is not None, "an export of an encoder-decoder sees to it that there is one"
            sources.append(Source(row, min(_MAX_NEW_TOKENS, generation.max_new_tokens), first, start))
            starts.append([start] if first is None else [start, first])
        return cls(sources, starts, facts, tokenizer)

    @contextmanager
    def open(self, directory: Path) -> Iterator[Seq2Seq]:
        """The graphs in a directory, on the CPU."""
        encoder, decoder = (
            Session(directory / name, Device("cpu")) for name in ("encoder.onnx", "decoder.onnx")
        )
        vocab_size = self.facts.vocab_size
        with Seq2Seq(encoder, decoder, self.tokenizer, vocab_size=vocab_size, threads=1) as engine:
            yield engine

    def outputs(self, engine: Seq2Seq) -> list[list[int]]:
        """What the decoder reads of each line's likeliest output: its start, and all but its end."""
        plain = replace(
            self.facts.generation, num_beams=1, do_sample=False, forced_eos_token_id=None, min_new_tokens=0
        )
        found = engine.generate(self.sources, plain)
        return [
            [*start, *hypotheses[0].token_ids] for start, hypotheses in zip(self.starts, found, strict=True)
        ]

    def logits(self, engine: Seq2Seq, outputs: Outputs) -> Iterator[Floats]:
        """The logits of each token of each output: (tokens, vocabulary)."""
        for source, tokens in zip(self.sources, outputs, strict=True):
            yield engine.logits([source.input_ids], tokens)[0]


def prove_graph(model: Any, sample: Sample, outputs: Outputs, logits: Iterator[Floats]) -> dict[str, Any]:
    """Compare float32 logits with the torch model's. Raises ExportError beyond the bound."""
    import torch

    difference = scale = 0.0
    with torch.inference_mode():
        for source, tokens, ours in zip(sample.sources, outputs, logits, strict=True):
            input_ids = torch.from_numpy(source.input_ids)[None]
            decoder_input_ids = torch.tensor([tokens])
            theirs = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits[0].numpy()
            # np.maximum, unlike max, keeps what is no number.
            difference = float(np.maximum(difference, np.abs(ours - theirs).max()))
            scale = max(scale, float(np.abs(theirs).max()))
    facts = {
        "max_difference": difference,
        "max_logit": scale,
        "bound": GRAPH_TOLERANCE * scale,
        "tokens": sum(map(len, outputs)),
    }
    # Written so that a difference that is no number fails.
    if not difference <= GRAPH_TOLERANCE * scale:
        raise ExportError(f"the graphs differ from the source model: {figures(facts)}")
    return facts


def prove_precision(reference: Iterator[Floats], logits: Iterator[Floats]) -> dict[str, Any]:
    """Compare logits of a reduced precision with float32. Raises ExportError beyond the bounds."""
    squared_error = squared_spread = 0.0
    num_clear = num_same = 0
    for exact, reduced in zip(reference, logits, strict=True):
        # What is added to all logits of a token changes nothing.
        exact, reduced = (rows - rows.mean(axis=1, keepdims=True) for rows in (exact, reduced))
        squared_error += float(((exact - reduced) ** 2).mean(axis=1).sum())
        squared_spread += float((exact**2).mean(axis=1).sum())
        clear = lead(exact) >= CLEAR_LEAD
        num_clear += int(clear.sum())
        num_same += int((exact.argmax(axis=1) == reduced.argmax(axis=1))[clear].sum())
    error = float(np.sqrt(squared_error / max(squared_spread, 1e-12)))
    agreement = num_same / num_clear if num_clear else 1.0
    facts = {
        "relative_error": error,
        "error_bound": LOGITS_TOLERANCE,
        "agreement": agreement,
        "agreement_bound": MIN_AGREEMENT,
        "clear_decisions": num_clear,
    }
    # Of few decisions, one may differ: that is no measurement yet.
    agrees = num_clear - num_same <= max(1, (1 - MIN_AGREEMENT) * num_clear)
    if not (error <= LOGITS_TOLERANCE and agrees):
        raise ExportError(
            f"the reduced precision changes the model too much: {figures(facts)}",
            hint="export with `--precision fp32`",
        )
    return facts


def prove_batches(sample: Sample, engine: Seq2Seq, outputs: Outputs, *, tolerance: float) -> dict[str, Any]:
    """Compare the logits of each line alone with those of the same line among others of its length.

    Raises ExportError beyond `tolerance`, in units of the largest logit.
    """
    difference = largest = 0.0
    for source, tokens in zip(sample.sources, outputs, strict=True):
        row = source.input_ids
        alone = engine.logits([row], tokens)[0]
        batch = engine.logits([row, row[::-1], np.roll(row, 3), row], tokens)
        difference = float(np.maximum(difference, np.abs(batch[[0, 3]] - alone).max()))
        largest = max(largest, float(np.abs(alone).max()))
    facts = {"max_difference": difference, "bound": tolerance * largest}
    if not difference <= tolerance * largest:
        raise ExportError(f"a line's output depends on its batch: {figures(facts)}")
    return facts
