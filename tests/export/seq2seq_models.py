"""Tiny random encoder-decoders, and what transformers generates with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lmcli.engine.devices import Device
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.seq2seq import Seq2Seq, Source
from lmcli.engine.session import Session
from tests.export.seq2seq_tokenizers import (
    write_bart,
    write_m2m_100,
    write_marian,
    write_mbart,
    write_pegasus,
    write_t5,
)

VOCAB_SIZE = 120
PAD, EOS, START = 0, 2, 3
_BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 130,
    "init_std": 0.2,
    "scale_embedding": True,
}
_T5 = {"d_model": 64, "d_kv": 24, "d_ff": 96, "num_layers": 2, "num_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "bart": _BART | {"scale_embedding": False},
    "m2m_100": _BART,
    "marian": _BART | {"activation_function": "swish"},
    "mbart": _BART,
    "pegasus": _BART | {"activation_function": "relu"},
    "t5": _T5,
    "mt5": _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
FAST = tuple(SIZES)


WRITERS = {
    "bart": write_bart,
    "m2m_100": write_m2m_100,
    "marian": write_marian,
    "mbart": write_mbart,
    "pegasus": write_pegasus,
    "t5": write_t5,
    "mt5": write_t5,
}
# The ids of the special tokens that the tokenizers of tests.export.seq2seq_tokenizers have.
_LIKE_BART = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_LIKE_T5 = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def write_checkpoint(path: Path, model_type: str, **changes: object) -> Path:
    """A checkpoint with a tokenizer of its family."""
    vocab_size = WRITERS[model_type](path)
    special: dict[str, int] = _LIKE_T5 if model_type in {"t5", "mt5", "pegasus"} else _LIKE_BART
    if model_type == "marian":
        last = vocab_size - 1
        special = {"pad_token_id": last, "eos_token_id": 0, "decoder_start_token_id": last}
    make_model(model_type, **{"vocab_size": vocab_size, **special, **changes}).save_pretrained(path)
    return path


def make_model(model_type: str, **changes: object) -> Any:
    """A model of random weights that are large enough to decide something."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": START,
        "bos_token_id": 1,
        "forced_eos_token_id": None,
        "forced_bos_token_id": None,
        "attn_implementation": "eager",
    }
    config = AutoConfig.for_model(model_type, **(settings | SIZES[model_type] | changes))
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embed_positions" not in name:
            # T5 does not scale the products of queries and keys, so their weights are small.
            is_t5_query = name.endswith(("SelfAttention.q.weight", "EncDecAttention.q.weight"))
            torch.nn.init.normal_(parameter, std=0.05 if is_t5_query else 0.2)
    model.tie_weights()
    return model.eval()


def random_sources(lengths: Sequence[int], **limits: int) -> list[Source]:
    """Rows of random tokens of these lengths, which end as those of a text."""
    draw = np.random.default_rng(0)
    return [
        Source(np.append(draw.integers(5, VOCAB_SIZE, length - 1), EOS), limits.get("max_new_tokens", 20))
        for length in lengths
    ]


def config_of(**changes: Any) -> GenerationConfig:
    """A configuration for these models."""
    settings: dict[str, Any] = {
        "decoder_start_token_id": START,
        "eos_token_ids": (EOS,),
        "max_new_tokens": 20,
    }
    settings |= changes
    return GenerationConfig(**settings)


def open_engine(
    folder: Path, graphs: tuple[onnx.ModelProto, onnx.ModelProto], *, threads: int = 1
) -> Seq2Seq:
    """The engine for two graphs; it has no tokenizer."""
    sessions = []
    for name, graph in zip(("encoder.onnx", "decoder.onnx"), graphs, strict=True):
        onnx.save(graph, folder / name)
        sessions.append(Session(folder / name, Device("cpu")))
    tokenizer: Any = None
    return Seq2Seq(sessions[0], sessions[1], tokenizer, vocab_size=VOCAB_SIZE, threads=threads)


def generate(
    model: Any,
    rows: Sequence[npt.NDArray[np.int64]],
    *,
    eos_token_id: Sequence[int] = (EOS,),
    first: int | None = None,
    **settings: Any,
) -> list[list[tuple[list[int], float]]]:
    """transformers' outputs of rows of equal length: for each row its outputs with their scores.

    Without the end, and without a `first` token that was forced.
    """
    import torch

    beams, each = settings.get("num_beams", 1), settings.get("num_return_sequences", 1)
    with torch.inference_mode():
        found = model.generate(
            input_ids=torch.from_numpy(np.stack(rows)),
            attention_mask=torch.ones(len(rows), len(rows[0]), dtype=torch.long),
            **({"max_new_tokens": 20, "do_sample": False, "eos_token_id": list(eos_token_id)} | settings),
            return_dict_in_generate=True,
            output_scores=True,
        )
    scores = found.sequences_scores.tolist() if beams > 1 else [0.0] * len(found.sequences)
    outputs = []
    for tokens, score in zip(found.sequences.tolist(), scores, strict=True):
        new = tokens[1 if first is None else 2 :]
        end = next((place for place, token in enumerate(new) if token in eos_token_id), len(new))
        outputs.append((new[:end], score))
    return [outputs[start : start + each] for start in range(0, len(outputs), each)]
