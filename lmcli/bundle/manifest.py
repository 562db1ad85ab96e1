"""`Manifest`: what a bundle says about itself, `manifest.json`. At run time it is the only source of truth.

The keys are described one by one in docs/models.md; `MANIFEST_FORMAT` changes when an older lmcli could
not run a newer bundle rightly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from lmcli.errors import REBUILD, BundleError

MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"

Task = Literal["text-classification", "token-classification"]
Tier = Literal["fast", "plain"]
Precision = Literal["fp32", "fp16", "int8"]
Activation = Literal["softmax", "sigmoid", "none"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size in bytes and SHA-256 (hex) of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts about one bundle. Everything the engine and the tasks need is here."""

    name: str
    task: Task
    model_type: str
    tier: Tier
    precision: Precision
    device: Device
    labels: tuple[str, ...]
    """Label names by id."""
    activation: Activation
    """How logits become scores: softmax where one label is right, sigmoid where each is judged by itself."""
    context_length: int
    """The most tokens a row may have, special tokens included."""
    inputs: tuple[str, ...]
    """The inputs of the graph, among input_ids, attention_mask, token_type_ids."""
    source: Mapping[str, Any]
    """Where the model comes from: kind, model, revision, license, and the tools that exported it."""
    proof: Mapping[str, Any] = field(default_factory=dict)
    """What was measured at export: the differences between graph, source model and precisions."""
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    """Every file of the bundle but the manifest itself, by plain name."""
    format: int = MANIFEST_FORMAT

    def to_json(self) -> bytes:
        """The text of `manifest.json`: stable, so that the same export gives the same bytes."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Self:
        """Read `manifest.json`.

        Raises BundleError, naming `where`, when it is broken, of a newer format, or holds values of
        the wrong kind.
        """
        try:
            facts = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where}: the manifest is not JSON: {error}", hint=REBUILD) from error
        if not isinstance(facts, dict) or "format" not in facts:
            raise BundleError(f"{where}: not a manifest of an lmcli bundle", hint=REBUILD)
        if facts["format"] != MANIFEST_FORMAT:
            raise BundleError(
                f"{where}: bundle format {facts['format']}, this lmcli reads {MANIFEST_FORMAT}",
                hint="upgrade lmcli, or export the model again with this version",
            )
        _check_kinds(facts, where)
        facts["files"] = {name: FileFacts(**entry) for name, entry in facts["files"].items()}
        facts["labels"], facts["inputs"] = tuple(facts["labels"]), tuple(facts["inputs"])
        return cls(**{name: facts[name] for name in _FIELDS})


_FIELDS = tuple(f.name for f in fields(Manifest))
_KINDS: Mapping[str, type] = {
    "name": str,
    "task": str,
    "model_type": str,
    "tier": str,
    "precision": str,
    "device": str,
    "labels": list,
    "activation": str,
    "context_length": int,
    "inputs": list,
    "source": dict,
    "proof": dict,
    "files": dict,
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "task": get_args(Task),
    "tier": get_args(Tier),
    "precision": get_args(Precision),
    "device": get_args(Device),
    "activation": get_args(Activation),
}


def _check_kinds(facts: dict[str, Any], where: str) -> None:
    """Refuse a manifest with a missing value or one of the wrong kind: a bundle is data from anywhere."""
    for name, kind in _KINDS.items():
        if name not in facts:
            raise BundleError(f"{where}: the manifest lacks {name!r}", hint=REBUILD)
        if type(facts[name]) is not kind:
            raise BundleError(f"{where}: {name!r} must be a JSON {_JSON_NAMES[kind]}", hint=REBUILD)
    for name, choices in _CHOICES.items():
        if facts[name] not in choices:
            raise BundleError(
                f"{where}: unknown {name} {facts[name]!r}; this lmcli knows {', '.join(choices)}",
                hint="upgrade lmcli, or export the model again with this version",
            )
    if not facts["labels"] or not all(map(_is_text, [*facts["labels"], *facts["inputs"]])):
        raise BundleError(f"{where}: labels and inputs must be strings", hint=REBUILD)
    if not 1 <= facts["context_length"] <= _MAX_CONTEXT:
        raise BundleError(f"{where}: impossible context_length {facts['context_length']}", hint=REBUILD)
    for file_name, entry in facts["files"].items():
        if not _is_plain(file_name) or not _is_file_entry(entry):
            raise BundleError(f"{where}: bad entry for file {file_name!r}", hint=REBUILD)


_JSON_NAMES = {str: "string", list: "array", bool: "boolean", int: "number", dict: "object"}


_MAX_CONTEXT = 2**20


def _is_text(item: object) -> bool:
    """A string that can be written; JSON can also spell half of a surrogate pair."""
    return type(item) is str and item.isprintable() and item != ""


def _is_plain(name: str) -> bool:
    """A file name without a folder: a bundle never reaches outside of its own directory."""
    return name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def _is_file_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"size", "sha256"}
        and type(entry["size"]) is int
        and type(entry["sha256"]) is str
    )
