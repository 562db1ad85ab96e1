"""The proof of an export: what runs equals the source model, within stated bounds, or there is no bundle.

Four comparisons on the sample lines (lines.txt or the user's): the float32 graph against torch, the graph of
the wanted precision against the float32 one, the tokenizer against the source tokenizer, and each line alone
against the same line in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmcli.engine.devices import Device
from lmcli.engine.encoder import Encoded, Encoder
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import TokenizeError, Tokenizer
from lmcli.errors import ExportError

Floats = npt.NDArray[np.float32]

# Against torch: the largest difference of a logit, in units of the largest logit. Measured for right graphs
# of 22 architectures: below 5e-5.
GRAPH_TOLERANCE = 1e-3
# Of a reduced precision: the error of the logits in units of their own spread, and the share of clear
# decisions (a lead of 0.1 or more in the scores) that stay as they were.
LOGITS_TOLERANCE = 0.25
MIN_AGREEMENT = 0.98
CLEAR_LEAD = 0.1
_ENOUGH_ROWS = 16
# Alone against in a batch, in units of the largest logit: nothing in the fast graphs; plain graphs may round
# sums in another order, and half precision rounds at 1e-3.
PLAIN_BATCH_TOLERANCE = 1e-4
FP16_BATCH_TOLERANCE = 2e-3


def sample_lines() -> list[str]:
    """The built-in sample: 62 lines in some 25 languages, and one that is longer than a model's context."""
    text = resources.files("lmcli.export").joinpath("lines.txt").read_text(encoding="utf-8")
    lines = text.splitlines()
    return [*lines, " ".join(lines)]


def encode(
    model: Path, tokenizer: Tokenizer, lines: Sequence[str], *, output: str = "logits"
) -> list[Encoded]:
    """Run the lines as the tasks would, on the CPU. Raises ExportError if the tokenizer refuses one."""
    with Encoder(Session(model, Device("cpu")), tokenizer, threads=1, output=output) as encoder:
        results = encoder.encode(lines)
    for line, result in zip(lines, results, strict=True):
        if isinstance(result, TokenizeError):
            raise ExportError(f"the tokenizer refuses {line[:40]!r}: {result}")
    return [result for result in results if isinstance(result, Encoded)]


def prove_tokenizer(source: Any, tokenizer: Tokenizer, lines: Sequence[str]) -> dict[str, Any]:
    """Compare token ids with those of the source tokenizer. Raises ExportError at the first difference."""
    for line, windows in zip(lines, tokenizer.windows(lines), strict=True):
        if isinstance(windows, TokenizeError):
            raise ExportError(f"the tokenizer refuses {line[:40]!r}: {windows}")
        ours = [window.input_ids.tolist() for window in windows]
        theirs = source(
            line,
            max_length=tokenizer.context_length,
            stride=tokenizer.stride,
            truncation=True,
            return_overflowing_tokens=True,
            split_special_tokens=True,
        )["input_ids"]
        if ours != theirs:
            raise ExportError(f"tokenizer.json differs from the source tokenizer on {line[:60]!r}")
    return {"lines": len(lines), "different": 0}


def prove_graph(model: Any, encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Compare float32 logits with the torch model's, row by row. Raises ExportError beyond the bound."""
    import torch

    difference = scale = 0.0
    with torch.inference_mode():
        for windows, logits in encoded:
            for window, ours in zip(windows, logits, strict=True):
                input_ids = torch.from_numpy(window.input_ids)[None]
                theirs = (
                    model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0].numpy()
                )
                # np.maximum, unlike max, keeps what is no number.
                difference = float(np.maximum(difference, np.abs(ours - theirs).max()))
                scale = max(scale, float(np.abs(theirs).max()))
    facts = {"max_difference": difference, "max_logit": scale, "bound": GRAPH_TOLERANCE * scale}
    # Written so that a difference that is no number fails.
    if not difference <= GRAPH_TOLERANCE * scale:
        raise ExportError(f"the graph differs from the source model: {figures(facts)}")
    return facts


def prove_precision(reference: Sequence[Encoded], encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Compare logits of a reduced precision with float32. Raises ExportError beyond the bounds."""
    exact, reduced = _rows(reference), _rows(encoded)  # (rows, labels) each
    # How far apart the texts are is what an error must be small against; of few texts, the logits themselves.
    spread = exact - exact.mean(axis=0) if len(exact) >= _ENOUGH_ROWS else exact
    error = float(np.sqrt(((exact - reduced) ** 2).mean() / max((spread**2).mean(), 1e-12)))
    clear = lead(exact) >= CLEAR_LEAD
    agree = (exact.argmax(axis=1) == reduced.argmax(axis=1)) if exact.shape[1] > 1 else clear | True
    agreement = float(agree[clear].mean()) if clear.any() else 1.0
    facts = {
        "relative_error": error,
        "error_bound": LOGITS_TOLERANCE,
        "agreement": agreement,
        "agreement_bound": MIN_AGREEMENT,
        "clear_decisions": int(clear.sum()),
    }
    if not (error <= LOGITS_TOLERANCE and agreement >= MIN_AGREEMENT):
        raise ExportError(
            f"the reduced precision changes the model too much: {figures(facts)}",
            hint="export with `--precision fp32`",
        )
    return facts


def prove_batches(
    model: Path,
    exact: Sequence[Encoded],
    tokenizer: Tokenizer,
    *,
    tolerance: float,
    output: str = "logits",
) -> dict[str, Any]:
    """Compare each row alone with the same row in a batch. Raises ExportError beyond `tolerance`."""
    difference = largest = 0.0
    with Encoder(Session(model, Device("cpu")), tokenizer, threads=1, output=output) as encoder:
        for window in (window for windows, _ in exact for window in windows):
            row = window.input_ids
            alone = encoder.run(row[None])[0]
            # Neighbours of the same length that say something else.
            batch = encoder.run(np.stack([row, row[::-1], np.roll(row, 3), row]))
            difference = float(np.maximum(difference, np.abs(batch[[0, 3]] - alone).max()))
            largest = max(largest, float(np.abs(alone).max()))
    facts = {"max_difference": difference, "bound": tolerance * largest}
    if not difference <= tolerance * largest:
        raise ExportError(f"a line's answer depends on its batch: {figures(facts)}")
    return facts


def _rows(encoded: Sequence[Encoded]) -> Floats:
    """The logits of all windows as (rows, labels): a row for each window, or for each of its tokens."""
    return np.concatenate([np.atleast_2d(logits) for _, rows in encoded for logits in rows])


def lead(logits: Floats) -> Floats:
    """By how much the best label's softmax score leads the second's. (rows, labels) to (rows,)."""
    if logits.shape[1] == 1:
        return np.ones(len(logits), np.float32)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = np.sort(exponentials / exponentials.sum(axis=1, keepdims=True), axis=1)
    leads: Floats = scores[:, -1] - scores[:, -2]
    return leads


def figures(facts: dict[str, Any]) -> str:
    """Measured figures as a message shows them."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in facts.items())
