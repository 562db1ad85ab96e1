"""The source model's tokenizer as one `tokenizer.json`, and the source tokenizer to compare it with."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from lmcli.bundle.manifest import Language
from lmcli.engine.tokenizer import TokenizeError, Tokenizer, is_refusal
from lmcli.errors import BundleError, ExportError
from lmcli.export.files import CONFIG_NAME
from lmcli.export.sentencepiece import CONVERTED, Json, convert, replace
from lmcli.export.source import Checkpoint
from lmcli.export.weights import read_json, rejected

# What tokenizer_config.json may say to transformers; `auto_map` and the like are not among it.
_KEPT_KEYS = frozenset(
    {
        "add_bos_token", "add_eos_token", "add_prefix_space", "additional_special_tokens",
        "added_tokens_decoder", "bos_token", "clean_up_tokenization_spaces", "cls_token",
        "do_basic_tokenize", "do_lower_case", "eos_token", "extra_ids", "keep_accents", "language_codes",
        "legacy", "legacy_behaviour", "mask_token", "mask_token_sent", "model_max_length", "never_split",
        "num_madeup_words", "offset", "pad_token", "remove_space", "sep_token", "source_lang",
        "split_by_punct", "src_lang", "strip_accents", "target_lang", "tgt_lang", "tokenize_chinese_chars",
        "tokenizer_class", "unk_token", "vocab_type",
    }
)  # fmt: skip
_UNLIMITED = 10**6  # transformers writes 10^30 where the tokenizer sets no limit


def load_source_tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any], scratch: Path) -> Any:
    """The tokenizer as transformers loads it, from copies of the allow-listed files alone.

    Raises ExportError when there is none, or none that `write_tokenizer` can write.
    """
    import transformers

    for name, path in checkpoint.files.items():
        if name.endswith((".safetensors", ".bin")) or name == CONFIG_NAME:
            continue
        (scratch / name).write_bytes(path.read_bytes())
    (scratch / CONFIG_NAME).write_text(json.dumps(_choice(checkpoint, config)))
    _sanitize(scratch / "tokenizer_config.json")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, trust_remote_code=False)
    except BaseException as error:  # whatever the files made transformers, sentencepiece or tokenizers raise
        if not is_refusal(error):
            raise
        raise ExportError(
            f"{checkpoint.id}: the tokenizer cannot be loaded: {error}", hint=_WANTED
        ) from error
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):  # False, for sentencepiece's files
        raise ExportError(f"{checkpoint.id}: the tokenizer's files are missing or damaged", hint=_WANTED)
    if not tokenizer.is_fast:
        _check_convertible(tokenizer, checkpoint, config)
    return tokenizer


def _choice(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Json:
    """What of config.json chooses the class, where tokenizer_config.json names none."""
    inner = config.get("encoder")  # of a pair of models; both have its tokenizer
    facts = inner if isinstance(inner, Mapping) else config
    path = checkpoint.files.get(CONFIG_NAME)
    named = read_json(path).get("tokenizer_class") if path else None
    return {
        "model_type": facts.get("model_type"),
        "tokenizer_class": named if isinstance(named, str) else None,
    }


_WANTED = "get the checkpoint again, with tokenizer.json or all the files that its tokenizer is made of"


def _check_convertible(tokenizer: Any, checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    kind = type(tokenizer).__name__
    if kind not in CONVERTED:
        raise ExportError(
            f"{checkpoint.id}: {kind} has no conversion to tokenizer.json",
            hint="add a tokenizer.json to the checkpoint",
        )
    size, wanted = len(tokenizer.encoder), config.get("vocab_size")
    if isinstance(wanted, int) and size > wanted:
        raise ExportError(
            f"{checkpoint.id}: vocab.json has {size} tokens, the model {wanted}",
            hint="get the checkpoint again: its files belong to different models",
        )


def write_tokenizer(tokenizer: Any, path: Path, *, keep_language: bool = False) -> None:
    """Write `tokenizer.json`, without the padding and truncation that a training run left in it.

    The tokens of languages are left to the manifest; with `keep_language` those of the tokenizer's own source
    language stay. Raises ExportError when the tokenizer cannot be written.
    """
    if tokenizer.is_fast:
        content = orjson.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    else:
        content = convert(tokenizer)
    if keep_language and hasattr(tokenizer, "src_lang"):
        content["post_processor"] = _frame(tokenizer, tokenizer.prefix_tokens, tokenizer.suffix_tokens)
    elif hasattr(tokenizer, "src_lang") or not tokenizer.is_fast:
        content["post_processor"] = _frame(tokenizer, [], [tokenizer.eos_token_id])
    if tokenizer.clean_up_tokenization_spaces and content["decoder"]:
        content["decoder"] = _with_clean_up(content["decoder"])
    try:
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    except TypeError as error:  # half of a surrogate pair in a token
        raise rejected("the vocabulary cannot be written", error, hint=_WANTED) from error
    try:
        Tokenizer(path, context_length=_UNLIMITED)
    except BundleError as error:  # a damaged map of characters, for one
        raise ExportError(f"the tokenizer's files are damaged: {error.message}", hint=_WANTED) from error


def _frame(tokenizer: Any, before: Sequence[int], after: Sequence[int]) -> Json:
    """A post-processor that puts tokens around a text."""
    tokens = {token_id: tokenizer.convert_ids_to_tokens(token_id) for token_id in (*before, *after)}
    head, tail = (
        [{"SpecialToken": {"id": tokens[token_id], "type_id": 0}} for token_id in ids]
        for ids in (before, after)
    )
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [*head, texts[0], *tail],
        "pair": [*head, *texts, *tail],
        "special_tokens": {
            token: {"id": token, "ids": [token_id], "tokens": [token]} for token_id, token in tokens.items()
        },
    }


def _with_clean_up(decoder: Json) -> Json:
    """The decoder, and behind it the steps of transformers' `clean_up_tokenization`."""
    shorter = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"]
    steps = [replace(text, text.strip()) for text in shorter]
    return {"type": "Sequence", "decoders": [decoder, {"type": "Fuse"}, *steps]}


def context_length(tokenizer: Any, config: Any, wanted: int) -> int:
    """The tokens a row may have: at most what tokenizer and position table allow, and `wanted`."""
    limits = [wanted]
    if tokenizer.model_max_length < _UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    if (positions := num_positions(config)) is not None:
        limits.append(positions)
    return min(limits)


def num_positions(config: Any) -> int | None:
    """How many tokens the table of positions is for; None without such a table."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None or config.model_type not in _OFFSET_POSITIONS:
        return positions
    pad_token_id: int = config.pad_token_id
    return positions - pad_token_id - 1  # RoBERTa and its kin count from behind the padding id


_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text"})


def prove_seq2seq_tokenizer(
    source: Any,
    tokenizer: Tokenizer,
    source_languages: Mapping[str, Language],
    target_languages: Mapping[str, Language],
    lines: Sequence[str],
) -> dict[str, Any]:
    """Compare rows with the source tokenizer's, in several languages, and texts of token ids.

    Raises ExportError at the first difference that is no tie. `=====` may be taken apart in several ways that
    are equally good, with the same tokens; there the rounding of sentencepiece's float32 sums decides.
    """
    from_, to = _spread(source_languages), _spread(target_languages)
    num_ties = 0
    for (from_code, speaker), (to_code, target) in itertools.product(from_, to):
        _speak(source, from_code, to_code)
        frame = speaker.into(target)
        rows = tokenizer.encode([frame.prompt + line for line in lines])
        for line, row in zip(lines, rows, strict=True):
            if isinstance(row, TokenizeError):
                raise ExportError(f"the tokenizer refuses {line[:40]!r}: {row}", hint=_UNEQUAL)
            ours = [*frame.before, *row.tolist(), *frame.after]
            theirs = _source_row(source, line, to_code, target)
            is_tie = not source.is_fast and sorted(ours) == sorted(theirs)
            if ours != theirs and not is_tie:
                raise ExportError(
                    f"tokenizer.json differs from the source tokenizer on {line[:60]!r}", hint=_UNEQUAL
                )
            num_ties += ours != theirs
    _speak(source, from_[0][0], to[0][0])
    prove_texts(source, tokenizer, lines)
    return {"lines": len(lines), "different": 0, "ties": num_ties}


def prove_texts(source: Any, tokenizer: Tokenizer, lines: Sequence[str]) -> None:
    """Compare the texts of the lines as outputs, and of tokens from the whole vocabulary.

    Raises ExportError at the first difference.
    """
    rows = [source(text_target=line, split_special_tokens=True)["input_ids"] for line in lines]
    some = range(0, len(source), math.ceil(len(source) / _NUM_DECODED))
    num_rows = math.ceil(len(some) / _ROW_LENGTH)
    rows += [list(some[start::num_rows]) for start in range(num_rows)]
    for row, text in zip(rows, tokenizer.decode(rows), strict=True):
        if text != source.decode(row, skip_special_tokens=True):
            raise ExportError(
                f"tokenizer.json makes another text than the source tokenizer: {text[:60]!r}", hint=_UNEQUAL
            )


_UNEQUAL = "please report the model: lmcli cannot write its tokenizer faithfully"
_NUM_DECODED, _ROW_LENGTH = 4096, 32


def _spread(languages: Mapping[str, Language]) -> list[tuple[str, Language]]:
    """Up to four of the languages, or none in particular."""
    known = list(languages.items()) or [("", Language())]
    return known[:: math.ceil(len(known) / 4)]


def _speak(source: Any, from_code: str, to_code: str) -> None:
    """Tell the source tokenizer the languages, as its users do; without any its own one stays."""
    if hasattr(source, "src_lang"):
        source.src_lang = from_code or source.src_lang
        source.tgt_lang = to_code or source.tgt_lang or source.src_lang


def _source_row(source: Any, line: str, to_code: str, target: Language) -> list[int]:
    """What the source tokenizer makes of a line, which is no more than text to it."""
    text = target.prompt + line
    if hasattr(source, "supported_language_codes"):
        # Marian's takes off the beginning what looks like a code.
        text = f">>{to_code}<< {text}" if target.before else f" {text}"
    row: list[int] = source(text, split_special_tokens=True)["input_ids"]
    return row


def _sanitize(path: Path) -> None:
    """Keep of a tokenizer configuration what is plain data for a known class."""
    if not path.exists():
        return
    facts = read_json(path)
    if facts.get("separate_vocabs"):
        raise ExportError(
            "the model has a vocabulary for each of its two languages, which lmcli does not run",
            hint="choose a model with one vocabulary for both",
        )
    path.write_text(json.dumps({key: value for key, value in facts.items() if key in _KEPT_KEYS}))
