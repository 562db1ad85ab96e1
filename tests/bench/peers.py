"""The peers of `encoders.py`, as small as their users would write them. Run in the environment `.bench`.

peers.py prepare CHECKPOINT FOLDER    export and quantize with optimum
peers.py transformers CHECKPOINT      stdin: a text a line; stdout: its label and score
peers.py optimum FOLDER
peers.py loop FOLDER
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

warnings.filterwarnings("ignore")
BATCH = 32


def prepare(checkpoint: str, folder: str) -> None:
    """The int8 graph that optimum's documentation recommends for this kind of CPU."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True)
    preset = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(model).quantize(save_dir=folder, quantization_config=preset)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def _texts() -> list[str]:
    return [line.rstrip("\n") for line in sys.stdin]


def _show(results: Iterable[dict[str, Any]]) -> None:
    for result in results:
        print(f"{result['label']}\t{result['score']:.4f}")


def transformers(checkpoint: str) -> None:
    """The transformers pipeline: torch, float32, batches of 32."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    classify = pipeline("text-classification", model=checkpoint, dtype=torch.float32, device="cpu")
    _show(classify(_texts(), batch_size=BATCH))


def optimum(folder: str) -> None:
    """Optimum's pipeline over the int8 graph."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name="model_quantized.onnx")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    _show(classify(_texts(), batch_size=BATCH))


def loop(folder: str) -> None:
    """ONNX Runtime and tokenizers by hand: batches of 32 sorted by length, every core inside one run."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(f"{folder}/model_quantized.onnx", settings)
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(_texts())]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    labels: dict[int, int] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        ids = np.zeros((len(batch), max(len(rows[index]) for index in batch)), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : len(rows[index])] = rows[index]
            mask[row, : len(rows[index])] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        logits = session.run(None, feeds)[0]
        labels.update(zip(batch, logits.argmax(axis=1).tolist(), strict=True))
    for index in range(len(rows)):
        print(labels[index])


if __name__ == "__main__":
    peer, *arguments = sys.argv[1:]
    known = {"transformers": transformers, "optimum": optimum, "loop": loop}
    prepare(*arguments) if peer == "prepare" else known[peer](*arguments)
