"""The source model's tokenizer as one `tokenizer.json`, and the source tokenizer to compare it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmcli.engine.tokenizer import is_refusal
from lmcli.errors import ExportError
from lmcli.export.source import Checkpoint
from lmcli.export.weights import read_json

# What tokenizer_config.json may say to transformers; `auto_map` and the like are not among it.
_KEPT_KEYS = frozenset(
    {
        "add_bos_token", "add_eos_token", "add_prefix_space", "additional_special_tokens",
        "added_tokens_decoder", "bos_token", "clean_up_tokenization_spaces", "cls_token",
        "do_basic_tokenize", "do_lower_case", "eos_token", "keep_accents", "mask_token",
        "model_max_length", "never_split", "pad_token", "remove_space", "sep_token", "sp_model_kwargs",
        "split_by_punct", "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "unk_token",
        "vocab_type",
    }
)  # fmt: skip
_UNLIMITED = 10**6  # transformers writes 10^30 where the tokenizer sets no limit


def load_source_tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any], scratch: Path) -> Any:
    """The tokenizer as transformers loads it, from copies of the allow-listed files alone.

    Raises ExportError when there is none or transformers cannot make a fast one of it.
    """
    import transformers

    for name, path in checkpoint.files.items():
        if name.endswith((".safetensors", ".bin")) or name == "config.json":
            continue
        (scratch / name).write_bytes(path.read_bytes())
    (scratch / "config.json").write_text(json.dumps({"model_type": config["model_type"]}))
    _sanitize(scratch / "tokenizer_config.json")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, trust_remote_code=False)
    except BaseException as error:  # whatever the files made transformers, sentencepiece or tokenizers raise
        if not is_refusal(error):
            raise
        raise ExportError(f"{checkpoint.id}: the tokenizer cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ExportError(
            f"{checkpoint.id}: {type(tokenizer).__name__} has no conversion to tokenizer.json",
            hint="add a tokenizer.json to the checkpoint",
        )
    return tokenizer


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write `tokenizer.json` without the padding and truncation that a training run left in it."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(path))


def context_length(tokenizer: Any, config: Any, wanted: int) -> int:
    """The tokens a row may have: at most what tokenizer and position table allow, and `wanted`."""
    limits = [wanted]
    if tokenizer.model_max_length < _UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    if positions := getattr(config, "max_position_embeddings", None):
        # RoBERTa and its kin count positions from behind the padding id.
        offset = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    return min(limits)


_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text"})


def _sanitize(path: Path) -> None:
    """Keep of a tokenizer configuration what is plain data for a known class."""
    if not path.exists():
        return
    facts = read_json(path)
    path.write_text(json.dumps({key: value for key, value in facts.items() if key in _KEPT_KEYS}))
