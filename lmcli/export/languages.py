"""`languages`, `prompt`: what an encoder-decoder must be told about languages and tasks, by its own codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmcli.bundle.manifest import Language
from lmcli.export.source import Checkpoint

Languages = dict[str, Language]

# Of one language (`fr`, `fra`, `cmn_Hans`) or of a group (`ROMANCE`, `en_el_es_fi`).
_CODE = r"[A-Za-z][\w+-]{0,60}"
_NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_MARIAN_TARGET = re.compile(rf">>({_CODE})<<")
_MARIAN_NAME = re.compile(r"(?:.*/)?opus-mt-(?:tc-(?:[a-z]+-)*)?(\w+)-(\w+)")
_T5_TASK = re.compile(r"translation_([A-Za-z]+)_to_([A-Za-z]+)")


def languages(
    checkpoint: Checkpoint, config: Mapping[str, Any], tokenizer: Any
) -> tuple[Languages, Languages]:
    """The source and the target languages of a translation model; none where it does not name them.

    `tokenizer` is the source tokenizer.
    """
    if hasattr(tokenizer, "supported_language_codes"):
        return _of_marian(checkpoint, tokenizer)
    if hasattr(tokenizer, "src_lang"):
        return _of_codes(_codes(tokenizer, config.get("vocab_size")), tokenizer)
    return _of_prompts(config)


def prompt(config: Mapping[str, Any]) -> str:
    """What a summarizer wants in front of every text."""
    found = _prefix(_task_settings(config).get("summarization"))
    return found if found is not None else _prefix(config) or ""


def _of_marian(checkpoint: Checkpoint, tokenizer: Any) -> tuple[Languages, Languages]:
    """A code in the text names the target; a model of one language pair has none, and says it elsewhere."""
    named = _MARIAN_NAME.fullmatch(_name(checkpoint))
    pair = named.groups() if named else (None, None)
    from_, to = (
        {code: Language()} if isinstance(code, str) and re.fullmatch(_CODE, code) else {}
        for code in (tokenizer.source_lang or pair[0], tokenizer.target_lang or pair[1])
    )
    targets = {
        match[1]: Language(before=(tokenizer.encoder[match[0]],))
        for match in map(_MARIAN_TARGET.fullmatch, tokenizer.supported_language_codes)
        if match
    }
    return from_, targets or to


def _name(checkpoint: Checkpoint) -> str:
    return checkpoint.id if checkpoint.kind == "hub" else checkpoint.path.resolve().name


def _codes(tokenizer: Any, vocab_size: object) -> dict[str, int]:
    """The codes whose tokens the model has, by name."""
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if codes is None:  # NLLB's are among the special tokens
        found = filter(_NLLB_CODE.fullmatch, map(str, tokenizer.additional_special_tokens))
        codes = {code: tokenizer.convert_tokens_to_ids(code) for code in found}
    # The tokenizer classes add all codes of their family, also to the tokenizer of a model that has fewer.
    limit = vocab_size if isinstance(vocab_size, int) else len(tokenizer)
    return {code: index for code, index in codes.items() if index < limit and index != tokenizer.unk_token_id}


def _of_codes(codes: Mapping[str, int], tokenizer: Any) -> tuple[Languages, Languages]:
    """A token names the source beside the text; the target is a token that the output begins with."""
    before = bool(tokenizer.prefix_tokens)
    from_ = {
        code: Language(before=(index,)) if before else Language(after=(index,))
        for code, index in codes.items()
    }
    # https://huggingface.co/docs/transformers/model_doc/mbart: the first mBART starts its decoder with it.
    starts = type(tokenizer).__name__.startswith("MBartTokenizer")
    to = {
        code: Language(decoder_start_token_id=index) if starts else Language(forced_bos_token_id=index)
        for code, index in codes.items()
    }
    return from_, to


def _of_prompts(config: Mapping[str, Any]) -> tuple[Languages, Languages]:
    """T5 is asked: `translate English to French: `. A target that is listed twice has its first prompt."""
    from_: Languages = {}
    to: Languages = {}
    for task, settings in _task_settings(config).items():
        pair = _T5_TASK.fullmatch(task)
        asked = _prefix(settings)
        if pair and asked and pair[2] not in to:
            from_[pair[1]] = Language()
            to[pair[2]] = Language(prompt=asked)
    return from_, to


def _task_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = config.get("task_specific_params")
    return settings if isinstance(settings, Mapping) else {}


def _prefix(settings: object) -> str | None:
    found = settings.get("prefix") if isinstance(settings, Mapping) else None
    return found if isinstance(found, str) else None
