"""`SummarizeOptions`: how long summaries are to be; `plan` says what that means for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from lmcli.bundle.manifest import Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.errors import UsageError
from lmcli.prompting.template import Template
from lmcli.tasks.base import check_field_name
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import Limits

Length = Literal["short", "medium", "long"]

_SIZES = {"short": (0.10, 16, 60), "long": (0.35, 60, 1 << 20)}
"""The share of the source's tokens that an encoder-decoder's summary may have, at least and at most how
many."""

# What a language model is asked. Small ones do better with the instruction behind the text: in front of a
# long one they lose sight of it and go on with the text.
INSTRUCTIONS: Mapping[Length, Template] = {
    "short": Template.parse("{text}\n\nSummarize the text above in one sentence."),
    "medium": Template.parse("{text}\n\nSummarize the text above in two sentences."),
    "long": Template.parse("{text}\n\nSummarize the text above in detail."),
}
_MOST_TOKENS: Mapping[Length, int] = {"short": 64, "medium": 256, "long": 256}
"""Where a language model is stopped that does not find an end by itself."""
_MOST_AT_ONCE = 2048
"""Tokens of a row of a language model: of a longer text a small one sums up some scene in the middle."""
_AGAINST_LOOPS = 0.4
"""The least frequency penalty of a language model."""


@dataclass(frozen=True, kw_only=True)
class SummarizeOptions:
    """How long summaries are to be, and how `Summarize` reports them."""

    length: Length = "medium"
    """Medium: as long as the model was trained to make them."""
    language: str = "en"
    """Of the texts: it decides where sentences end."""
    as_field: str = "summary"
    """The name of the field that it adds, and the beginning of those of the others."""
    generation: GenerationOptions = field(default_factory=GenerationOptions)

    def __post_init__(self) -> None:
        """Raise UsageError for options that exclude each other and a field name that records need."""
        check_field_name(self.as_field)
        for name in ("min_new_tokens", "max_new_tokens"):
            if self.length != "medium" and getattr(self.generation, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"--length and {option} exclude each other", hint="choose one of the two")


class Plan(NamedTuple):
    """What the options mean for a model."""

    config: GenerationConfig
    limits: Callable[[int], Limits]
    """From the tokens of a text to those of its summary."""
    row_length: int
    """The most tokens of a row."""
    language: str
    """As a sentence splitter calls it."""


def plan(manifest: Manifest, options: SummarizeOptions) -> Plan:
    """Raises UsageError for an unknown language, and for lengths that the model cannot have."""
    language = options.language
    if language != SummarizeOptions.language:
        from lmcli.tasks.languages import parse_language

        language = parse_language(language, "--language")
    if manifest.causal is None:
        config = _seq2seq_config(manifest, options.generation)
        limits = _limits(config, _SIZES.get(options.length))
        return Plan(config, limits, manifest.context_length, language)
    config = _causal_config(manifest, options)
    row_length = min(manifest.context_length - config.max_new_tokens, _MOST_AT_ONCE)
    return Plan(config, _limits(config), row_length, language)


def _seq2seq_config(manifest: Manifest, options: GenerationOptions) -> GenerationConfig:
    assert manifest.seq2seq is not None, "the manifest of a summarization model has seq2seq"
    defaults = manifest.seq2seq.generation
    return options.config(defaults, most_tokens=max(defaults.max_new_tokens, manifest.context_length))


def _causal_config(manifest: Manifest, options: SummarizeOptions) -> GenerationConfig:
    """A text and its summary share the context of a language model: half of it is the text's."""
    assert manifest.causal is not None
    published = manifest.causal.generation
    defaults = replace(
        published,
        max_new_tokens=_MOST_TOKENS[options.length],
        frequency_penalty=max(published.frequency_penalty, _AGAINST_LOOPS),
    )
    return options.generation.config(defaults, most_tokens=manifest.context_length // 2)


def _limits(config: GenerationConfig, sizes: tuple[float, int, int] | None = None) -> Callable[[int], Limits]:
    """The limits of a summary: those of the model, or with `sizes` by the length of its source."""
    if sizes is None:
        return lambda _: Limits(config.min_new_tokens, config.max_new_tokens)
    share, least, most = sizes

    def limits(num_tokens: int) -> Limits:
        size = min(max(int(share * num_tokens), least), most, config.max_new_tokens)
        return Limits(size // 2, size)

    return limits
