"""Which files of a checkpoint an export may read, by their names: nothing else is opened or downloaded.

A name is the path below the checkpoint's folder, with `/` between its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lmcli.errors import ExportError

CONFIG_NAME = "config.json"
SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
INDEX = {SAFETENSORS: "model.safetensors.index.json", PICKLE: "pytorch_model.bin.index.json"}
"""The kinds of weights in order of preference, each with the name of the index of its shards."""
GGUF = re.compile(r"[\w.-]+\.gguf", re.ASCII)
"""One file that is a whole checkpoint, as llama.cpp reads it."""

MODULES_NAME = "modules.json"
SENTENCES_NAME = "sentence_bert_config.json"
POOLING_NAME = "1_Pooling/config.json"
"""What sentence-transformers adds to a checkpoint."""

_OTHERS = re.compile(
    r"(generation_)?config\.json|tokenizer[\w.-]*\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(txt|json|bpe)|merges\.txt|[\w.-]+\.(model|spm)|README\.md|chat_template\.jinja"
    rf"|{'|'.join(map(re.escape, (MODULES_NAME, SENTENCES_NAME, POOLING_NAME)))}"
)


def plain(name: str) -> str:
    """A name without a folder in it: `1_Pooling.config.json`."""
    return name.replace("/", ".")


def names_in(path: Path) -> list[str]:
    """The names of the files in a directory, and of the one that may lie in a folder below."""
    names = [entry.name for entry in path.iterdir() if entry.is_file()]
    return [*names, *([POOLING_NAME] if (path / POOLING_NAME).is_file() else [])]


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights."""
    return any(kind.fullmatch(name) for kind in (*INDEX, GGUF))


def choose(names: Iterable[str], source: str, *, allow_pickle: bool) -> list[str]:
    """The names an export may read, sorted: tokenizer, configuration, one kind of weights; or a .gguf file.

    Raises ExportError, naming `source`, when the names are those of no checkpoint that lmcli reads.
    """
    present = sorted(names)
    kind = next((kind for kind in INDEX if any(map(kind.fullmatch, present))), None)
    if kind is None and any(map(GGUF.fullmatch, present)):
        return _choose_gguf(present, source)
    if CONFIG_NAME not in present:
        raise ExportError(
            f"{source} has no {CONFIG_NAME}: it is not a Transformers checkpoint",
            hint="export takes checkpoints as `save_pretrained` writes them, and .gguf files",
        )
    if kind is None:
        raise ExportError(
            f"{source} has no PyTorch weights: neither model.safetensors nor pytorch_model.bin",
            hint="a model for another framework, or an adapter, must be converted first",
        )
    if kind is PICKLE and not allow_pickle:
        raise ExportError(
            f"{source} has its weights as pickle only, and a pickle can run code when it is read",
            hint="ask its authors for safetensors; if you trust them, --allow-pickle reads it",
        )
    return [
        name for name in present if kind.fullmatch(name) or name == INDEX[kind] or _OTHERS.fullmatch(name)
    ]


def _choose_gguf(present: list[str], source: str) -> list[str]:
    found = [name for name in present if GGUF.fullmatch(name)]
    if len(found) > 1:
        raise ExportError(
            f"{source} has several .gguf files: {', '.join(found)}", hint="give the path of one of them"
        )
    return [name for name in present if name in {*found, "README.md"}]
