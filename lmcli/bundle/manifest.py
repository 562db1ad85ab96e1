"""`Manifest`: what a bundle says about itself, `manifest.json`. At run time it is the only source of truth.

The keys are described one by one in docs/models.md; `MANIFEST_FORMAT` changes when an older lmcli could
not run a newer bundle rightly.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import msgspec

from lmcli.engine.generation import GenerationConfig
from lmcli.errors import REBUILD, BundleError, LmcliError

MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"

ClassifierTask = Literal["text-classification", "token-classification"]
Seq2SeqTask = Literal["translation", "summarization"]
CausalTask = Literal["text-generation"]
EmbeddingTask = Literal["feature-extraction"]
Task = Literal[ClassifierTask, Seq2SeqTask, CausalTask, EmbeddingTask]
Tier = Literal["fast", "plain"]
Precision = Literal["fp32", "fp16", "int8", "blocks"]
Activation = Literal["softmax", "sigmoid", "none"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size in bytes and SHA-256 (hex) of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Language:
    """How a translation model is told of one language."""

    before: tuple[int, ...] = ()
    """Token ids that stand before those of the text."""
    after: tuple[int, ...] = ()
    """Token ids that stand behind those of the text and its end."""
    prompt: str = ""
    """Text in front of the text: `translate English to French: `."""
    forced_bos_token_id: int | None = None
    """What the first token of an output must be."""
    decoder_start_token_id: int | None = None
    """What the decoder starts with, where that is the language."""

    def into(self, target: Language) -> Language:
        """What stands around a text of this language that is to be translated into `target`."""
        return Language(
            before=target.before + self.before,
            after=self.after + target.after,
            prompt=self.prompt + target.prompt,
            forced_bos_token_id=target.forced_bos_token_id,
            decoder_start_token_id=target.decoder_start_token_id,
        )


@dataclass(frozen=True, kw_only=True)
class Seq2SeqFacts:
    """What an encoder-decoder needs besides its graphs and its tokenizer."""

    generation: GenerationConfig
    """Special tokens, and the search options that the model was published with."""
    vocab_size: int
    """How many tokens the output layer knows."""
    prompt: str = ""
    """Text in front of every text: `summarize: `."""
    source_languages: Mapping[str, Language] = field(default_factory=dict)
    """The languages it translates from, by the model's own code; empty for a summarizer."""
    target_languages: Mapping[str, Language] = field(default_factory=dict)
    """The languages it translates into."""


@dataclass(frozen=True, kw_only=True)
class CausalFacts:
    """What a causal language model needs besides its graph and its tokenizer.

    Its chat template, if it has one, is the file CHAT_TEMPLATE_NAME of the bundle.
    """

    generation: GenerationConfig
    """The tokens that end an output, and the search options that the model was published with."""
    vocab_size: int
    """How many tokens the output layer knows."""
    before: tuple[int, ...] = ()
    """Token ids that stand before every text that no chat template frames."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """What chat templates may spell: `bos_token`, `eos_token`, `unk_token`, `pad_token`."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts about one bundle. Everything the engine and the tasks need is here."""

    name: str
    task: Task
    model_type: str
    tier: Tier
    precision: Precision
    device: Device
    labels: tuple[str, ...] = ()
    """Label names by id, of a classifier."""
    activation: Activation = "none"
    """How logits become scores: softmax where one label is right, sigmoid where each is judged by itself."""
    context_length: int
    """The most tokens a row may have, special tokens included."""
    inputs: tuple[str, ...]
    """The inputs of the (encoder's) graph, among input_ids, attention_mask, token_type_ids."""
    seq2seq: Seq2SeqFacts | None = None
    """What an encoder-decoder needs besides; null for all others."""
    causal: CausalFacts | None = None
    """What a causal language model needs besides; null for all others."""
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
            facts = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BundleError(f"{where}: the manifest is not JSON: {error}", hint=REBUILD) from error
        if not isinstance(facts, dict) or "format" not in facts:
            raise BundleError(f"{where}: not a manifest of an lmcli bundle", hint=REBUILD)
        if facts["format"] != MANIFEST_FORMAT:
            raise BundleError(
                f"{where}: bundle format {facts['format']}, this lmcli reads {MANIFEST_FORMAT}",
                hint="upgrade lmcli, or export the model again with this version",
            )
        try:
            manifest = msgspec.convert(facts, cls)
        except (msgspec.ValidationError, LmcliError) as error:
            hint = f"{REBUILD}; a bundle of a newer lmcli needs that version"
            raise BundleError(f"{where}: {error}", hint=hint) from error
        _check_values(manifest, where)
        return manifest


def _check_values(manifest: Manifest, where: str) -> None:
    """Refuse values of the right kind that no export writes: a bundle is data from anywhere."""
    for facts, tasks in (
        (manifest.seq2seq, get_args(Seq2SeqTask)),
        (manifest.causal, get_args(CausalTask)),
        (manifest.labels or None, get_args(ClassifierTask)),
    ):
        if (facts is not None) != (manifest.task in tasks):
            raise BundleError(f"{where}: labels, seq2seq and causal do not fit {manifest.task}", hint=REBUILD)
    if not all(map(_is_text, [*manifest.labels, *manifest.inputs])):
        raise BundleError(f"{where}: labels and inputs must be strings of one line", hint=REBUILD)
    if not 1 <= manifest.context_length <= _MAX_CONTEXT:
        raise BundleError(f"{where}: impossible context_length {manifest.context_length}", hint=REBUILD)
    for name in manifest.files:
        if not _is_plain(name):
            raise BundleError(f"{where}: bad entry for file {name!r}", hint=REBUILD)


_MAX_CONTEXT = 2**20


def _is_text(item: str) -> bool:
    """A string that can be written on a line; JSON can also spell half of a surrogate pair."""
    return item != "" and not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in item)


def _is_plain(name: str) -> bool:
    """A file name without a folder: a bundle never reaches outside of its own directory."""
    return name not in {"", ".", ".."} and not set(name) & set("/\\\0")
