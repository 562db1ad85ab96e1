"""Tiny random sentence encoders, as sentence-transformers publishes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.export.checkpoints import EXTRA, SIZES, write_tokenizer

MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def write_sentence_encoder(
    path: Path,
    model_type: str = "bert",
    *,
    modes: Sequence[str] = ("mean_tokens",),
    modules: Sequence[str] = ("Transformer", "Pooling", "Normalize"),
    max_seq_length: int | None = 32,
    **changes: object,
) -> Path:
    """A checkpoint of random weights, with a tokenizer trained on the sample lines."""
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer_size = write_tokenizer(path)
    known = AutoConfig.for_model(model_type)
    sizes: dict[str, Any] = {name: value for name, value in SIZES.items() if hasattr(known, name)}
    settings = sizes | EXTRA.get(model_type, {}) | {"vocab_size": tokenizer_size} | changes
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, **settings)).save_pretrained(path)
    (path / "1_Pooling").mkdir()
    write_json(path / "1_Pooling/config.json", {f"pooling_mode_{mode}": mode in modes for mode in MODES})
    write_json(path / "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    write_json(
        path / "modules.json",
        [
            {"idx": index, "path": "", "type": f"sentence_transformers.models.{name}"}
            for index, name in enumerate(modules)
        ],
    )
    return path


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_config(checkpoint: Path, **changes: object) -> None:
    """Edit config.json; None takes a key out."""
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in config.items() if value is not None})
