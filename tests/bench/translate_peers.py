"""The peers of `translate.py`, as small as their users would write them. Run in the environment `.bench`.

translate_peers.py convert CHECKPOINT PRECISION FOLDER                           with CTranslate2's converter
translate_peers.py ctranslate2 CHECKPOINT FOLDER PRECISION BEAMS THREADS IN OUT  a text a line
translate_peers.py transformers CHECKPOINT BEAMS THREADS IN OUT
translate_peers.py score HELDOUT OUT       stdin -> stdout: BLEU and chrF of OUT as a JSON object
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
BATCH = 32
MAX_BATCH_SIZE = 64
MAX_NEW_TOKENS = 200
MAX_REFERENCES = 4


def convert(checkpoint: str, precision: str, folder: str) -> None:
    """The checkpoint as CTranslate2 stores it."""
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-not-found, unused-ignore]

    TransformersConverter(checkpoint).convert(folder, quantization=precision)


def ctranslate2(
    checkpoint: str, folder: str, precision: str, beams: str, threads: str, source: str, target: str
) -> None:
    """CTranslate2: a thread a batch, batches of 64 that it sorts by length itself; nothing is cut."""
    # Its Python package imports torch where there is any, as there is here; it translates without.
    for module in ("torch", "transformers"):
        sys.modules[module] = None  # type: ignore[assignment]
    from ctranslate2 import Translator  # type: ignore[import-not-found, unused-ignore]
    from sentencepiece import SentencePieceProcessor

    translator = Translator(folder, compute_type=precision, inter_threads=int(threads), intra_threads=1)
    encoder = SentencePieceProcessor(model_file=f"{checkpoint}/source.spm")
    decoder = SentencePieceProcessor(model_file=f"{checkpoint}/target.spm")
    results = translator.translate_batch(
        [[*pieces, "</s>"] for pieces in encoder.encode(_read(source), out_type=str)],
        max_batch_size=MAX_BATCH_SIZE,
        beam_size=int(beams),
        length_penalty=1,
        max_input_length=0,
        max_decoding_length=MAX_NEW_TOKENS,
    )
    pieces = [[piece for piece in result.hypotheses[0] if piece != "<unk>"] for result in results]
    _write(target, decoder.decode(pieces))


def transformers(checkpoint: str, beams: str, threads: str, source: str, target: str) -> None:
    """`generate`: torch, float32, batches of 32 sorted by length."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    torch.set_num_threads(int(threads))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32)
    texts = _read(source)
    order = sorted(range(len(texts)), key=lambda index: len(tokenizer.tokenize(texts[index])))
    translations = [""] * len(texts)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        inputs = tokenizer([texts[index] for index in batch], return_tensors="pt", padding=True)
        outputs = model.generate(
            **inputs, num_beams=int(beams), max_new_tokens=MAX_NEW_TOKENS, early_stopping=int(beams) > 1
        )
        for index, text in zip(batch, tokenizer.batch_decode(outputs, skip_special_tokens=True), strict=True):
            translations[index] = text
    _write(target, translations)


def score(heldout: str, target: str) -> None:
    """BLEU and chrF against the references, the first four of a line at most."""
    from sacrebleu import corpus_bleu, corpus_chrf

    rows = [line.split("\t")[1 : 1 + MAX_REFERENCES] for line in _read(heldout)]
    references = [[row[i] if i < len(row) else None for row in rows] for i in range(MAX_REFERENCES)]
    metrics: dict[str, Any] = {"bleu": corpus_bleu, "chrf": corpus_chrf}
    print(json.dumps({name: metric(_read(target), references).score for name, metric in metrics.items()}))


def _read(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _write(path: str, lines: list[str]) -> None:
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    known = {function.__name__: function for function in (convert, ctranslate2, transformers, score)}
    known[sys.argv[1]](*sys.argv[2:])
