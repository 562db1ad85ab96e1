"""`SPLITS`: how byte-level tokenizers split a text before they merge bytes, by the names of GGUF.

Where llama.cpp only comes close to an expression of the original tokenizer.json, the original stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Split(NamedTuple):
    """One way to split texts."""

    patterns: tuple[str, ...]
    """Each takes its matches out of what the ones before it have left or made."""
    prefers_whole: bool = False
    """Whether a part that is a token becomes that token, whatever the merges say."""
    adds_bos: bool = False
    """Whether texts begin with a control token where the file does not say it."""
    composes: bool = False
    """Whether characters and their accents are composed first (NFC)."""


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CAPITALIZED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)

_BY_WORD = Split((_GPT2,))
_BY_DIGIT = Split((r"\p{N}", _GPT2))
_LLAMA3_PATTERNS = (rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",)
_LLAMA3 = Split(_LLAMA3_PATTERNS, prefers_whole=True, adds_bos=True)
_QWEN2 = Split((rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",))
_TEKKEN = Split(
    (rf"{'|'.join(_CAPITALIZED)}|\p{{N}}|{_REST_WITH_SLASHES}",), prefers_whole=True, adds_bos=True
)
_GPT4O = Split(
    ("|".join((*(f"{word}{_SUFFIXES}?" for word in _CAPITALIZED), r"\p{N}{1,3}", _REST_WITH_SLASHES)),)
)

SPLITS: Mapping[str, Split] = {
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "gigachat", "mellum", "trillion", "exaone4"), _BY_WORD),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"), _BY_DIGIT),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"), _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx"), Split(_LLAMA3_PATTERNS)),
    "qwen2": _QWEN2._replace(composes=True),  # which llama.cpp leaves out
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2"), _QWEN2),
    "deepseek-coder": Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
}
