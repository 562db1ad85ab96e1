"""Tiny causal checkpoints as transformers saves them, with a byte-level BPE like GPT-2's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmcli.export.prove import sample_lines

CONTEXT = 128
_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
_MPT = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": CONTEXT}
_GPT_NEO = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
    "max_position_embeddings": CONTEXT,
}
_OPT = _SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64}
FAST: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", _GROUPED | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", _GROUPED),
    "gpt2": ("gpt2", _GPT2),
    "gpt_neox": ("gpt_neox", _SIZES | {"rotary_pct": 1.0}),
    "gpt_neox in sequence": ("gpt_neox", _SIZES | {"rotary_pct": 1.0, "use_parallel_residual": False}),
    "gpt_neox turned in part": ("gpt_neox", _SIZES | {"num_attention_heads": 2, "rotary_pct": 0.5}),
    "opt": ("opt", _OPT),
}
"""A model type and its settings by name."""
PLAIN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", _GPT2 | {"rotary_dim": 8, "n_ctx": CONTEXT}),
    "falcon": ("falcon", _SIZES | {"new_decoder_architecture": False, "multi_query": True}),
    "gemma2": ("gemma2", _GROUPED | {"head_dim": 16, "sliding_window": 8}),
    "gpt2": ("gpt2", _GPT2),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
    "gpt_neo": ("gpt_neo", _GPT_NEO),
    "gpt_neox": ("gpt_neox", _SIZES),
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 8}),
    "mpt": ("mpt", _MPT),
    "opt": ("opt", _OPT),
    "phi": ("phi", _SIZES),
    "qwen3 with odd heads": ("qwen3", _GROUPED | {"head_dim": 20}),
}
MODELS = {**PLAIN, **FAST}


def make_model(kind: tuple[str, Mapping[str, Any]], vocab_size: int) -> Any:
    """A model of random weights that are large enough to decide something."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = kind
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, vocab_size=vocab_size, **special, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def write_checkpoint(path: Path, kind: tuple[str, Mapping[str, Any]]) -> Any:
    """Save a model with a tokenizer; the model."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(path)
    model = make_model(kind, len(tokenizer))
    model.save_pretrained(path)
    return model


def make_tokenizer() -> Any:
    """Each byte is a token, and a few of them together."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sample_lines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
