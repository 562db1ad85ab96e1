"""Tiny real tokenizers of the encoder-decoder families, with special tokens at the ids of the published ones.

Each function writes what `save_pretrained` does, and returns the size of the vocabulary its model must have.
"""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from lmcli.export.prove import sample_lines

ENGLISH = (
    "The house stands at the end of the street, and its garden is full of old trees.",
    "She said that she would come back before the winter, but nobody believed her.",
    "Where is the station? I have been looking for it for an hour.",
    "We are going to the market tomorrow morning; would you like to come with us?",
    "The children were playing in the garden when it began to rain.",
    "I don't know what you mean, and I'm not sure that I want to.",
    "He has written seven books about the history of the town and of its people.",
    "There is nothing in this letter that you have not told me already.",
    "The train to the coast leaves at ten; don't be late!",
    "My brother works in a hospital, my sister teaches mathematics in a school.",
)
FRENCH = (
    "La maison se trouve au bout de la rue, et son jardin est plein de vieux arbres.",
    "Elle a dit qu'elle reviendrait avant l'hiver, mais personne ne l'a crue.",
    "Où est la gare ? Je la cherche depuis une heure.",
    "Nous allons au marché demain matin ; voulez-vous venir avec nous ?",
    "Les enfants jouaient dans le jardin quand il a commencé à pleuvoir.",
    "Je ne sais pas ce que vous voulez dire, et je ne suis pas sûr de vouloir le savoir.",
    "Il a écrit sept livres sur l'histoire de la ville et de ses habitants.",
    "Il n'y a rien dans cette lettre que vous ne m'ayez déjà dit.",
    "Le train pour la côte part à dix heures ; ne soyez pas en retard !",
    "Mon frère travaille à l'hôpital, ma sœur enseigne les mathématiques à l'école.",
)


def write_marian(
    path: Path, *, targets: Sequence[str] = (), text: tuple[str, ...] = ENGLISH, **settings: object
) -> int:
    """Marian's pair of models, English to French. `targets` are the codes of a model into many languages.

    The vocabulary lacks some pieces of the English model, as one of the pieces in the training data does.
    """
    from transformers import MarianTokenizer

    source, target = _train(text, 240), _train(FRENCH, 240)
    codes = [f">>{code}<<" for code in targets]
    pieces = dict.fromkeys(["</s>", "<unk>", *codes, *_most(_pieces(source)), *_pieces(target), "<pad>"])
    files = {
        "source_spm": _write(path, "source.spm", source),
        "target_spm": _write(path, "target.spm", target),
        "vocab": _write_vocabulary(path, pieces),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wishes for sacremoses, which it does not use here
        known = {"source_lang": "en", "target_lang": "fr"} | settings
        MarianTokenizer(**files, **known).save_pretrained(path)
    return len(pieces)


def write_m2m_100(path: Path) -> int:
    from transformers import M2M100Tokenizer
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    model = _train((*ENGLISH, *FRENCH), 400, "bpe")
    # The order of the vocabulary is not that of the pieces.
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *sorted(_most(_pieces(model)))])
    tokenizer = M2M100Tokenizer(
        vocab_file=_write_vocabulary(path, pieces),
        spm_file=_write(path, "sentencepiece.bpe.model", model),
        additional_special_tokens=[f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]],
    )
    tokenizer.save_pretrained(path)
    return len(pieces) + len(tokenizer.lang_code_to_id) + _NUM_MADE_UP


_NUM_MADE_UP = 8  # tokens of the model that fairseq made up for a round number


def write_nllb(path: Path, **settings: object) -> int:
    from transformers import NllbTokenizerFast

    model = _write(path, "sentencepiece.bpe.model", _train((*ENGLISH, *FRENCH), 400, "bpe"))
    return _save(NllbTokenizerFast(vocab_file=model, **settings), path)


def write_mbart(path: Path) -> int:
    from transformers import MBartTokenizerFast

    model = _write(path, "sentencepiece.bpe.model", _train((*ENGLISH, *FRENCH), 400))
    return _save(MBartTokenizerFast(vocab_file=model), path)


def write_mbart50(path: Path) -> int:
    from transformers import MBart50TokenizerFast

    model = _write(path, "sentencepiece.bpe.model", _train((*ENGLISH, *FRENCH), 400))
    return _save(MBart50TokenizerFast(vocab_file=model), path)


def write_t5(path: Path, **settings: object) -> int:
    from transformers import T5Tokenizer, T5TokenizerFast

    model = _train((*ENGLISH, *FRENCH), 400, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    # Made straight from the model, the fast one would lack the space before the first word.
    T5Tokenizer(_write(path, "spiece.model", model), legacy=True, **settings).save_pretrained(path)
    return _save(T5TokenizerFast.from_pretrained(path), path)


def write_pegasus(path: Path, **settings: object) -> int:
    """Pegasus; BigBird-Pegasus has the same with `offset=0` and `mask_token_sent=None`."""
    from transformers import PegasusTokenizerFast

    model = _train((*ENGLISH, *FRENCH), 400, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return _save(PegasusTokenizerFast(vocab_file=_write(path, "spiece.model", model), **settings), path)


def write_bart(path: Path) -> int:
    from transformers import BartTokenizerFast

    return _save(BartTokenizerFast(**_write_byte_level(path)), path)


def write_blenderbot(path: Path) -> int:
    from transformers import BlenderbotTokenizerFast

    return _save(BlenderbotTokenizerFast(**_write_byte_level(path), add_prefix_space=True), path)


def forget() -> None:
    """Train the models anew when they are wanted again."""
    _train.cache_clear()


def _save(tokenizer: Any, path: Path) -> int:
    tokenizer.save_pretrained(path)
    return len(tokenizer)


def _write(path: Path, name: str, model: bytes) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(model)
    return str(path / name)


def _write_vocabulary(path: Path, pieces: dict[str, None]) -> str:
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return _write(path, "vocab.json", json.dumps(vocabulary, ensure_ascii=False, indent=2).encode())


@cache
def _train(
    own: tuple[str, ...], size: int, model_type: Literal["unigram", "bpe"] = "unigram", **ids: Any
) -> bytes:
    """A sentencepiece model of some sentences and the Latin ones among the sample lines."""
    from sentencepiece import SentencePieceTrainer

    # Pieces such as `aaa` and `aa` take a long row of letters apart in several ways that are equally good.
    latin = [line for line in sample_lines()[:-1] if line.isascii() and "aaa" not in line]
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*own, *latin]),
        model_writer=written,
        vocab_size=size,
        model_type=model_type,
        character_coverage=0.995,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
        **ids,
    )
    return written.getvalue()


def _pieces(model: bytes) -> list[str]:
    """The pieces behind `<unk>`, `<s>` and `</s>`."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(index) for index in range(3, processor.get_piece_size())]


def _most(pieces: Sequence[str]) -> list[str]:
    return [piece for index, piece in enumerate(pieces) if index % 40 != 39]


def _write_byte_level(path: Path) -> dict[str, str]:
    """BART's kind of vocabulary and merges.

    They are counted here: the trainers of `tokenizers` break ties differently in each run.
    """
    from tokenizers import pre_tokenizers

    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = [word for line in (*ENGLISH, *FRENCH) for word, _ in splitter.pre_tokenize_str(line)]
    words = {tuple(word): count for word, count in Counter(text).items()}
    merges: list[tuple[str, str]] = []
    for _ in range(150):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = {_merge(word, *merges[-1]): count for word, count in words.items()}
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *sorted(splitter.alphabet())])
    pieces |= dict.fromkeys([left + right for left, right in merges] + ["<mask>"])
    listed = "".join(f"{left} {right}\n" for left, right in merges)
    return {
        "vocab_file": _write_vocabulary(path, pieces),
        "merges_file": _write(path, "merges.txt", f"#version: 0.2\n{listed}".encode()),
    }


def _merge(word: Sequence[str], left: str, right: str) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == (left, right):
            merged[-1] = left + right
        else:
            merged.append(symbol)
    return tuple(merged)
