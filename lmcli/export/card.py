"""The model card of a bundle, README.md, from what its manifest says."""

from __future__ import annotations

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import COMMANDS

_PRECISIONS = {
    "fp32": "float32 weights and activations",
    "fp16": "float16 weights and activations",
    "int8": "int8 weights with a scale for each column; int8 activations with a scale for each row",
}


def model_card(manifest: Manifest) -> str:
    """Name, use, source, license and the measured proof, as Markdown."""
    source = manifest.source
    revision = f", revision {source['revision']}" if source["revision"] else ""
    return f"""\
# {manifest.name}

An lmcli bundle for {manifest.task}: a {manifest.model_type} model as an ONNX graph ({manifest.tier} graph,
{_PRECISIONS[manifest.precision]}).

    echo 'some text' | lmcli {COMMANDS[manifest.task]} --model {manifest.name}

- Source: {source["model"]}{revision}.
- License: {source["license"] or "not named by the source; ask its authors before you share this bundle"}.
- Labels: {", ".join(manifest.labels)}.
- Context: {manifest.context_length} tokens; longer texts are read in overlapping windows.
- Made with: {", ".join(f"{tool} {version}" for tool, version in source["tools"].items())}.

## Measured at export

{_proof(manifest)}
"""


def _proof(manifest: Manifest) -> str:
    proof = manifest.proof
    tokenizer, graph, batch = proof["tokenizer"], proof["graph"], proof["batch"]
    lines = [
        f"- Tokenizer: {tokenizer['different']} of {tokenizer['lines']} lines differ from the source's.",
        f"- Float32 graph against the source model: largest difference of a logit {graph['max_difference']:.1e}, "
        f"of logits up to {graph['max_logit']:.1f}.",
        f"- The same line alone and in a batch: largest difference of a logit {batch['max_difference']:.1e}.",
    ]
    if "precision" in proof:
        facts = proof["precision"]
        lines.append(
            f"- {manifest.precision} against float32: logits off by {facts['relative_error']:.1%} of their "
            f"spread; {facts['agreement']:.1%} of {facts['clear_decisions']} clear decisions are the same."
        )
    return "\n".join(lines)
