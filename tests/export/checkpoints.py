"""Tiny random checkpoints of any encoder architecture, written by the test that needs one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lmcli.export.prove import sample_lines

LABELS = {
    "text-classification": ["NEGATIVE", "POSITIVE", "NEUTRAL"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
}
# Small sizes under whatever name an architecture has for them; each takes those it knows.
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "dim": 64,
    "emb_dim": 64,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "n_heads": 4,
    "intermediate_size": 128,
    "hidden_dim": 128,
    "max_position_embeddings": 130,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
EXTRA: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "modernbert": {"reference_compile": False, "local_attention": 8, "global_attn_every_n_layers": 2},
    "distilbert": {"activation": "gelu"},
    "squeezebert": {"embedding_size": 64},
    "mobilebert": {"true_hidden_size": 64, "intra_bottleneck_size": 64, "num_feedforward_networks": 1},
}


def write_checkpoint(
    path: Path, model_type: str, task: str = "text-classification", **changes: object
) -> Path:
    """A checkpoint of random weights with a tokenizer trained on the sample lines."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    tokenizer_size = write_tokenizer(path)
    known = AutoConfig.for_model(model_type)
    sizes = {name: value for name, value in SIZES.items() if hasattr(known, name)}
    settings = sizes | EXTRA.get(model_type, {}) | {"vocab_size": tokenizer_size} | changes
    names = LABELS[task]
    config = AutoConfig.for_model(
        model_type,
        **settings,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    auto = (
        AutoModelForSequenceClassification
        if task == "text-classification"
        else AutoModelForTokenClassification
    )
    torch.manual_seed(0)
    model = auto.from_config(config)
    for parameter in model.parameters():  # some architectures start too small to decide anything
        if parameter.dim() > 1 and parameter.std() < 0.05:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    return path


def write_tokenizer(path: Path) -> int:
    """A WordPiece tokenizer with BERT's special tokens; the size of its vocabulary.

    Its vocabulary is counted here: the trainers of `tokenizers` break ties differently in each run.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word
        for line in sample_lines()
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))
    )
    letters = sorted(set("".join(words)))
    frequent = sorted(words, key=lambda word: (-words[word], word))[:300]
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(path)
    return len(fast)
