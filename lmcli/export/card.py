"""The model card of a bundle, README.md, from what its manifest says."""

from __future__ import annotations

import re

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import COMMANDS

_PRECISIONS = {
    "fp32": "float32 weights and activations",
    "fp16": "float16 weights and activations",
    "int8": "int8 weights with a scale for each column; int8 activations with a scale for each row",
    "blocks": "weights in blocks of 32 with a scale for each: those of its GGUF file, or of 8 bits; int8 "
    "activations with a scale for each block",
}


def model_card(manifest: Manifest, *, notes: str = "", source_card: str = "") -> str:
    """Name, use, source, license and the measured proof, as Markdown.

    `notes` are the user's; `source_card` is the checkpoint's README.md, which tells of its data and limits.
    """
    source = manifest.source
    revision = f", revision {source['revision']}" if source["revision"] else ""
    return f"""\
# {manifest.name}

An lmcli bundle for {manifest.task}: a {manifest.model_type} model as an ONNX graph ({manifest.tier} graph,
{_PRECISIONS[manifest.precision]}).

    echo 'some text' | lmcli {COMMANDS[manifest.task]} --model {manifest.name}

- Source: {source["model"]}{revision}.
- License: {source["license"] or "not named by the source; ask its authors before you share this bundle"}.
{_facts(manifest)}
- Made with: {", ".join(f"{tool} {version}" for tool, version in source["tools"].items())}.

## Measured at export

{_proof(manifest)}
{_section("Notes", notes)}{_section("The card of the source model", source_card)}"""


def _facts(manifest: Manifest) -> str:
    """What the model knows."""
    length = f"- Context: {manifest.context_length} tokens; "
    windows = f"{length}longer texts are read in overlapping windows."
    if manifest.task == "feature-extraction":
        return windows
    if manifest.causal is not None:
        return f"{length}prompt and answer together."
    if manifest.seq2seq is None:
        return f"- Labels: {', '.join(manifest.labels)}.\n{windows}"
    if manifest.task == "summarization":
        return f"{length}longer texts are summarized part by part."
    from_, to = (
        ", ".join(languages) or "not named by the source"
        for languages in (manifest.seq2seq.source_languages, manifest.seq2seq.target_languages)
    )
    return f"- Translates: {from_} to {to}.\n{length}longer sentences are taken apart."


def _section(title: str, text: str) -> str:
    """A part of the card, if there is any text for it: without its YAML head, headings two levels deeper."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip()
    return f"\n## {title}\n\n{re.sub(r'^#', '###', text, flags=re.MULTILINE)}\n" if text else ""


def _proof(manifest: Manifest) -> str:
    """What was measured, a line each. Without torch there was no source model to compare with."""
    proof, result = manifest.proof, "value" if manifest.task == "feature-extraction" else "logit"
    lines = []
    if (tokenizer := proof.get("tokenizer")) and "different" in tokenizer:
        lines.append(
            f"- Tokenizer: {tokenizer['different']} of {tokenizer['lines']} lines differ from the source's."
        )
    elif tokenizer:
        lines.append(f"- Tokenizer: gives back each of {tokenizer['lines']} lines.")
    if graph := proof.get("graph"):
        largest = graph[f"max_{result}"]
        lines.append(
            f"- Float32 graph against the source model: largest difference of a {result} "
            f"{graph['max_difference']:.1e}, of {result}s up to {largest:.1f}."
        )
    if batch := proof.get("batch"):
        lines.append(
            f"- The same line alone and in a batch: largest difference of a {result} "
            f"{batch['max_difference']:.1e}."
        )
    if (facts := proof.get("precision")) and "mean_cosine" in facts:
        lines.append(
            f"- {manifest.precision} against float32: the cosine of embeddings is "
            f"{facts['mean_cosine']:.4f} in the mean, {facts['lowest_cosine']:.4f} at worst."
        )
    elif facts:
        lines.append(
            f"- {manifest.precision} against float32: logits off by {facts['relative_error']:.1%} of their "
            f"spread; {facts['agreement']:.1%} of {facts['clear_decisions']} clear decisions are the same."
        )
    return "\n".join(lines)
