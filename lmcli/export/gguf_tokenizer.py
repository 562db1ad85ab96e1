"""`write_gguf_tokenizer`: the vocabulary of a GGUF file as a tokenizer.json, and what else it says of tokens.

There are two kinds. A byte-level BPE has its merges in the file, but only the name of the regular expressions
that texts are split by first: see `SPLITS`. A sentencepiece BPE has a score for each piece, and better pieces
are merged first. Both are read as llama.cpp's llama-vocab.cpp does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from gguf import TokenType

from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import BundleError, ExportError
from lmcli.export.gguf import GgufFile
from lmcli.export.gguf_file import GET_AGAIN, Container
from lmcli.export.gguf_splits import SPLITS, Split

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What prompts and outputs need to know besides tokenizer.json, which adds no tokens by itself."""

    before: tuple[int, ...]
    """What a text begins with, unless a chat template begins it."""
    eos_token_ids: tuple[int, ...]
    """What an output ends with: the end of the text first, then those of a turn."""
    special_tokens: Mapping[str, str]
    """`bos_token`, `eos_token`, `unk_token` and `pad_token`, as far as there are such."""
    chat_template: str | None


# Control tokens that end a turn, as llama.cpp knows them by their texts; it, too, makes controls of them.
_ENDS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>",
        "<|eom_id|>", "<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>",
    }
)  # fmt: skip
_SPACE = "▁"  # as sentencepiece writes it
_KEY = "tokenizer.ggml."
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # where the file says nothing


def write_gguf_tokenizer(file: GgufFile, path: Path) -> TokenFacts:
    """Write `tokenizer.json`.

    Raises ExportError for a kind of tokenizer that lmcli does not know, and for a damaged one.
    """
    vocabulary = _Vocabulary(file.container)
    if len(vocabulary.tokens) > file.config["vocab_size"]:
        raise vocabulary.error(
            f"it has {len(vocabulary.tokens)} tokens, and embeddings of {file.config['vocab_size']}"
        )
    path.write_bytes(orjson.dumps(_content(vocabulary), option=orjson.OPT_INDENT_2))
    try:
        Tokenizer(path, context_length=file.config["max_position_embeddings"])
    except BundleError as error:  # merges to a token that is not there, for one
        raise vocabulary.error(f"its tokenizer is damaged: {error.message}") from error
    return TokenFacts(
        before=vocabulary.before,
        eos_token_ids=vocabulary.ends,
        special_tokens=vocabulary.special_tokens,
        chat_template=file.container.fact("tokenizer.chat_template", str),
    )


class _Vocabulary:
    """The tokens of a file by their ids, and what it says of them."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.model = container.need(_KEY + "model", str)
        if self.model not in {"gpt2", "llama"}:
            raise ExportError(
                f"{container.path}: tokenizers of the kind {self.model!r} are not known to lmcli",
                hint="it knows byte-level BPE (gpt2) and sentencepiece's BPE (llama)",
            )
        given = container.need(_KEY + "tokens", list)
        self.tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(given)]
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            raise self.error("its vocabulary has tokens twice")

    def error(self, message: str) -> ExportError:
        return ExportError(f"{self._container.path}: {message}", hint=GET_AGAIN)

    @cached_property
    def kinds(self) -> Sequence[int]:
        """The TokenType of each token."""
        kinds = self._numbers("token_type")
        if kinds is None:
            return [TokenType.NORMAL] * len(self.tokens)
        return [
            TokenType.CONTROL if token in _ENDS and kind == TokenType.USER_DEFINED else kind
            for token, kind in zip(self.tokens, kinds, strict=True)
        ]

    @cached_property
    def scores(self) -> Sequence[float]:
        """How good each piece is."""
        scores = self._numbers("scores")
        if scores is None or not all(map(math.isfinite, scores)):
            raise self.error("its tokenizer has no scores of pieces")
        return scores

    @cached_property
    def merges(self) -> list[tuple[str, str]] | None:
        """What is merged, the most important first; None: the file leaves it to the scores."""
        given = self._container.fact(_KEY + "merges", list)
        if given is None:
            return None
        # The first part may begin with a space, but has none further on.
        parts = [(merge[:1], *merge[1:].partition(" ")) for merge in given]
        return [(first + rest, second) for first, rest, _, second in parts]

    @cached_property
    def split(self) -> Split:
        """How a text is split before bytes are merged."""
        name = self._container.fact(_KEY + "pre", str) or "default"
        if name not in SPLITS:
            raise ExportError(
                f"{self._container.path}: the pre-tokenizer {name!r} is not known to lmcli",
                hint="export the model's safetensors instead; they come with a tokenizer.json",
            )
        return SPLITS[name]

    @property
    def adds_space(self) -> bool:
        """Whether sentencepiece puts a space before a text."""
        return self._flag("add_space_prefix", default=True)

    @property
    def before(self) -> tuple[int, ...]:
        """See `TokenFacts`."""
        adds = self._flag("add_bos_token", default=self.model == "llama" or self.split.adds_bos)
        first = self.token_id("bos")
        return (first,) if adds and first is not None else ()

    @property
    def ends(self) -> tuple[int, ...]:
        """See `TokenFacts`."""
        named = [self.token_id(name) for name in ("eos", "eot", "eom")]
        known = [
            index
            for index, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if token in _ENDS and kind == TokenType.CONTROL
        ]
        return tuple(dict.fromkeys(index for index in (*named, *known) if index is not None))

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """See `TokenFacts`."""
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        found = {name: self.token_id(key) for name, key in names.items()}
        return {name: self.tokens[index] for name, index in found.items() if index is not None}

    def token_id(self, name: str) -> int | None:
        """The id of a special token. Raises ExportError when there is no such token."""
        index = self._container.fact(f"{_KEY}{name}_token_id", int)
        if index is None:
            index = _SENTENCEPIECE_IDS.get(name) if self.model == "llama" else None
        if index is not None and not 0 <= index < len(self.tokens):
            raise self.error(f"{_KEY}{name}_token_id is {index}, of {len(self.tokens)} tokens")
        return index

    def _flag(self, name: str, *, default: bool) -> bool:
        flag = self._container.fact(_KEY + name, bool)
        return default if flag is None else flag

    def _numbers(self, name: str) -> list[Any] | None:
        numbers = self._container.fact(_KEY + name, np.ndarray)
        if numbers is not None and len(numbers) != len(self.tokens):
            raise self.error(f"{_KEY}{name} has {len(numbers)} values for {len(self.tokens)} tokens")
        return None if numbers is None else list(numbers.tolist())


def _content(vocabulary: _Vocabulary) -> Json:
    """The content of tokenizer.json."""
    parts = _byte_level(vocabulary) if vocabulary.model == "gpt2" else _sentencepiece(vocabulary)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "post_processor": None,
        **parts,
    }


def _added_tokens(vocabulary: _Vocabulary) -> list[Json]:
    """Those that are found in a text as they are; only controls are special, and found in prompts alone."""
    special = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": index, "content": token, **flags, "special": special[TokenType(kind)]}
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in special
    ]


def _byte_level(vocabulary: _Vocabulary) -> Json:
    if vocabulary.merges is None:
        raise vocabulary.error("its tokenizer has no merges")
    split = vocabulary.split
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in split.patterns
    ]
    return {
        "normalizer": {"type": "NFC"} if split.composes else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, to_bytes]},
        "decoder": to_bytes,
        "model": _bpe(vocabulary, vocabulary.merges, ignore_merges=split.prefers_whole),
    }


def _sentencepiece(vocabulary: _Vocabulary) -> Json:
    steps: list[Json] = [{"type": "Prepend", "prepend": _SPACE}] if vocabulary.adds_space else []
    strip: list[Json] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*steps, _replace(" ", _SPACE)]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace(_SPACE, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(strip if vocabulary.adds_space else []),
            ],
        },
        "model": _bpe(
            vocabulary,
            vocabulary.merges or _merges_by_score(vocabulary),
            unknown=vocabulary.token_id("unknown"),
            byte_fallback=TokenType.BYTE in vocabulary.kinds,
        ),
    }


def _merges_by_score(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """All ways to make a piece of two others, best pieces first: `generate_merges` of transformers.

    Only normal pieces count: no text may become a control token.
    """
    kinds = zip(vocabulary.tokens, vocabulary.scores, vocabulary.kinds, strict=True)
    scores = {token: score for token, score, kind in kinds if kind == TokenType.NORMAL}
    merges = [
        (-score, -cut, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    # Of equal pieces in a row sentencepiece takes the first: its left part is the longer one.
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _bpe(
    vocabulary: _Vocabulary,
    merges: Sequence[tuple[str, str]],
    *,
    unknown: int | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else vocabulary.tokens[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


def _replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}
