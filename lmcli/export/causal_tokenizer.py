"""`write_causal_tokenizer`: the tokenizer of a causal checkpoint, and what its settings say of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import tokenizers

from lmcli.engine.tokenizer import Tokenizer, is_refusal
from lmcli.errors import ExportError
from lmcli.export.conversion import Conversion
from lmcli.export.generation import GENERATION_NAME
from lmcli.export.gguf_tokenizer import TokenFacts
from lmcli.export.packages import require
from lmcli.export.weights import read_json

Ints = npt.NDArray[np.int64]

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def write_causal_tokenizer(conversion: Conversion, path: Path) -> TokenFacts:
    """Write `tokenizer.json` so that it adds no tokens by itself.

    A checkpoint without a tokenizer.json needs transformers. Raises ExportError for a damaged one.
    """
    files = conversion.checkpoint.files
    content = read_json(files[_FILE], limit=_LIMIT) if _FILE in files else _converted(conversion)
    before = _before(content, path)
    settings = read_json(files[_CONFIG]) if _CONFIG in files else {}
    return TokenFacts(
        before=before,
        eos_token_ids=_ends(conversion, settings, path),
        special_tokens=_special_tokens(settings),
        chat_template=_chat_template(files, settings),
    )


_LIMIT = 64 * 2**20  # of Gemma's 256,000 tokens


def _converted(conversion: Conversion) -> dict[str, Any]:
    """The tokenizer of other files, as transformers reads them."""
    require("transformers", "sentencepiece", by=f"the tokenizer of {conversion.checkpoint.id}")
    from lmcli.export.tokenizer import load_source_tokenizer, write_tokenizer

    folder = conversion.folder("tokenizer")
    source = load_source_tokenizer(conversion.checkpoint, conversion.config, folder)
    source.clean_up_tokenization_spaces = False  # it would take spaces that a model has written
    write_tokenizer(source, folder / "written.json")
    return read_json(folder / "written.json", limit=_LIMIT)


def prove_causal_tokenizer(conversion: Conversion, tokenizer: Tokenizer, rows: Sequence[Ints]) -> None:
    """Compare the rows of the sample lines, and texts of token ids, with those of transformers' tokenizer.

    Raises ExportError at the first difference.
    """
    from lmcli.export.tokenizer import load_source_tokenizer, prove_texts

    source = load_source_tokenizer(conversion.checkpoint, conversion.config, conversion.folder("source"))
    source.clean_up_tokenization_spaces = False
    for line, row in zip(conversion.lines, rows, strict=True):
        if source(line, split_special_tokens=True)["input_ids"] != row.tolist():
            raise ExportError(
                f"tokenizer.json differs from the source tokenizer on {line[:60]!r}", hint=_UNUSABLE
            )
    prove_texts(source, tokenizer, conversion.lines)
    conversion.proof["tokenizer"]["different"] = 0
    conversion.report(f"tokenizer: equal to the source on {len(rows)} lines")


def _before(content: dict[str, Any], path: Path) -> tuple[int, ...]:
    """What the tokenizer puts before a text; `path` gets it without that."""
    plain = content | {"padding": None, "truncation": None}
    path.write_bytes(orjson.dumps(plain))
    before: list[int] = _load(path).encode("").ids
    path.write_bytes(orjson.dumps(plain | {"post_processor": None}, option=orjson.OPT_INDENT_2))
    if _load(path).encode("").ids:
        raise ExportError("the tokenizer makes tokens out of no text", hint=_UNUSABLE)
    return tuple(before)


_UNUSABLE = "get the checkpoint again, or report the model: lmcli cannot use its tokenizer"


def _load(path: Path) -> Any:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        if not is_refusal(error):
            raise
        raise ExportError(f"{_FILE} is damaged: {error}", hint=_UNUSABLE) from error


def _ends(conversion: Conversion, settings: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """The tokens that end an output: those of the settings for generation, and the tokenizer's own."""
    files = conversion.checkpoint.files
    generation = read_json(files[GENERATION_NAME]) if GENERATION_NAME in files else {}
    named = generation.get("eos_token_id", conversion.config.get("eos_token_id"))
    ids = named if isinstance(named, list) else [named]
    own = _load(path).token_to_id(_text(settings.get("eos_token")) or "")
    return tuple(dict.fromkeys(token for token in [*ids, own] if isinstance(token, int)))


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {name: _text(settings.get(name)) for name in _SPECIAL}
    return {name: text for name, text in found.items() if text is not None}


def _text(token: Any) -> str | None:
    """A token as a configuration spells it: a string, or an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _chat_template(files: Mapping[str, Path], settings: Mapping[str, Any]) -> str | None:
    """In a file of its own, or in the configuration; of several the one called `default`."""
    if _TEMPLATE in files:
        try:
            return files[_TEMPLATE].read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ExportError(f"{_TEMPLATE} is not UTF-8", hint="get the checkpoint again") from error
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None
