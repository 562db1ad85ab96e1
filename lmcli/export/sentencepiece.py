"""`convert`: the tokenizers that transformers has in Python alone, Marian's and M2M-100's, as tokenizer.json.

Both find pieces with a sentencepiece model and look up their ids in a vocabulary of its own. Marian's holds
the pieces of two models: of the source, which texts are read with, and of the target.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lmcli.errors import ExportError

Json = dict[str, Any]

CONVERTED = frozenset({"MarianTokenizer", "M2M100Tokenizer"})
"""The classes that `convert` takes."""

_SPACE = "▁"  # as sentencepiece writes it
_NEVER = 1e4  # by so much worse than the worst piece is what no text can become
# What Python's str.strip takes away; the regular expressions of `tokenizers` count fewer characters as space.
_PYTHON_SPACE = r"[\s\x1c-\x1f]+"


def convert(tokenizer: Any) -> Json:
    """The content of tokenizer.json, without a post-processor.

    Raises ExportError when vocabulary and sentencepiece model do not fit together.
    """
    model = _read_model(tokenizer)
    texts = (model.SentencePiece.NORMAL, model.SentencePiece.USER_DEFINED)
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type in texts}
    ids = _read_vocabulary(tokenizer)
    controls = {*tokenizer.all_special_tokens, *_controls(tokenizer)}
    special = [token for token in ids if token in controls]
    if not scores or not all(map(math.isfinite, scores.values())):
        raise ExportError("the sentencepiece model has no pieces that a text could become", hint=_GET_AGAIN)
    if not {tokenizer.unk_token, tokenizer.eos_token} <= ids.keys():
        raise ExportError("vocab.json lacks the unknown token or the end", hint=_GET_AGAIN)
    # A piece without an id gets one behind the vocabulary, as a control token: those become unknown.
    without_id = [piece for piece in scores if piece not in ids]
    ids |= {piece: index for index, piece in enumerate(without_id, len(ids))}
    normalizers = _normalizers(model.normalizer_spec)
    if model.trainer_spec.model_type == model.trainer_spec.UNIGRAM:
        known = set("".join(scores))
        normalizers.append(_mark_unknown(known))
        ids = {_spell(token, known, special): index for token, index in ids.items()}
        inner = _unigram(ids, scores, ids[tokenizer.unk_token])
    elif model.trainer_spec.model_type == model.trainer_spec.BPE:
        inner = _bpe(ids, scores, tokenizer.unk_token)
    else:
        raise ExportError("the sentencepiece model is neither Unigram nor BPE", hint=_GET_AGAIN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_control(token, ids[token]) for token in (*special, *without_id)],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": _words(scores),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _DECODERS},
        "model": inner,
    }


_GET_AGAIN = "get the checkpoint again: its files belong to different models"


def replace(pattern: str, content: str, *, regex: bool = False) -> Json:
    """A step of a normalizer or a decoder."""
    return {
        "type": "Replace",
        "pattern": {"Regex" if regex else "String": pattern},
        "content": content,
    }


_DECODERS = [
    replace(" ", ""),  # the marks of `_spell`
    replace(_SPACE, " "),
    {"type": "Fuse"},
    replace(rf"\A{_PYTHON_SPACE}|{_PYTHON_SPACE}\z", "", regex=True),
]


def _read_model(tokenizer: Any) -> Any:
    """The protobuf of the model that the source text is read with."""
    from sentencepiece import sentencepiece_model_pb2

    processor = tokenizer.spm_source if hasattr(tokenizer, "spm_source") else tokenizer.sp_model
    return sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())


def _controls(tokenizer: Any) -> set[str]:
    """The pieces that mean no text to the model that outputs are written with."""
    processor = tokenizer.spm_target if hasattr(tokenizer, "spm_target") else tokenizer.sp_model
    indices = range(processor.get_piece_size())
    return {processor.id_to_piece(index) for index in indices if processor.is_control(index)}


def _read_vocabulary(tokenizer: Any) -> dict[str, int]:
    """The ids of all tokens, languages included, in their order."""
    ids: dict[str, int] = dict(tokenizer.encoder) | getattr(tokenizer, "lang_token_to_id", {})
    if unknown := tokenizer.added_tokens_encoder.keys() - {*tokenizer.all_special_tokens, *ids}:
        raise ExportError(
            f"the tokenizer has added tokens that lmcli does not convert: {sorted(unknown)[:4]}",
            hint="export a model with the vocabulary that it was published with",
        )
    ids |= tokenizer.added_tokens_encoder
    if not all(type(index) is int for index in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        raise ExportError("vocab.json does not number its tokens one by one", hint=_GET_AGAIN)
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _normalizers(spec: Any) -> list[Json]:
    """The steps of sentencepiece: its map of characters, single spaces, and a space before the first word."""
    steps: list[Json] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
        if "nfkc" in spec.name:
            # `tokenizers` applies the map to single characters, and would not compose decomposed ones.
            steps.insert(0, {"type": "NFC"})
    return [
        *steps,
        replace(rf"\A +| +(?= )|[ {_SPACE}]+\z", "", regex=True),
        replace(" ", _SPACE),
        {"type": "Prepend", "prepend": _SPACE},
    ]


def _mark_unknown(known: Collection[str]) -> Json:
    """Put a space, of which none is left, before and behind each run of characters that are in no piece.

    To sentencepiece a run is one unknown piece, to the vocabulary perhaps a token: a Chinese word in English
    text can be a piece of the target. With the spaces, a token matches all of a run or nothing: see `_spell`.
    """
    unknown = f"[^{_ranges(known)}]"
    return replace(f"(?<!{unknown})(?={unknown})|(?<={unknown})(?!{unknown})", " ", regex=True)


def _ranges(characters: Iterable[str]) -> str:
    """The inside of a regular expression's class."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)


def _spell(token: str, known: set[str], special: Collection[str]) -> str:
    """The token as it stands in a text where `_mark_unknown` has been."""
    return f" {token} " if token not in special and known.isdisjoint(token) else token


def _unigram(ids: Iterable[str], scores: Mapping[str, float], unknown: int) -> Json:
    never = min(scores.values()) - _NEVER
    entries = [[token, scores.get(token, never)] for token in ids]
    return {"type": "Unigram", "unk_id": unknown, "vocab": entries, "byte_fallback": False}


def _bpe(ids: Mapping[str, int], scores: Mapping[str, float], unknown: str) -> Json:
    from transformers.convert_slow_tokenizer import generate_merges

    order = {piece: index for index, piece in enumerate(scores)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ids,
        "merges": generate_merges(order, scores),
    }


def _words(pieces: Iterable[str]) -> Json | None:
    """Take each word by itself, which is faster, unless a piece reaches over several words."""
    if any(_SPACE in piece[1:] for piece in pieces):
        return None
    return {
        "type": "Split",
        "pattern": {"String": _SPACE},
        "behavior": "MergedWithNext",
        "invert": False,
    }


def _control(token: str, index: int) -> Json:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": True}
