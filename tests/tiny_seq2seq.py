"""Tiny encoder-decoders made by hand: they answer a text character by character, as a function says.

Each byte of a text is a token. The encoder passes the tokens on; the decoder looks up the one at the position
where it stands, and ends where the text ends. The second best answer to a letter is the letter itself; the
answer to `^` is " la la la", without an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from lmcli.bundle.load import load_seq2seq
from lmcli.bundle.manifest import Language, Manifest, Seq2SeqFacts, Seq2SeqTask
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.export.graph import Graph, Tensor
from tests.tiny import write_manifest

Floats = npt.NDArray[np.float32]
Speech = Callable[[str], str]
"""What a character becomes."""

END, UNKNOWN, PAD = range(3)
LANGUAGES = {"en": 3, "fr": 4, "de": 5, "ru": 6}
"""The tokens that name languages."""
LOOP = "^"
_SPECIAL = ("</s>", "<unk>", "<pad>", *(f">>{code}<<" for code in LANGUAGES))
_LA = " la"
_BEST, _SECOND, _SURE = 9.0, 6.0, 40.0
_ASCII = [chr(code) for code in range(128)]
_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def french(char: str) -> str:
    """A capital, with an accent on each E."""
    return char.upper().replace("E", "É")


def rot13(char: str) -> str:
    """A letter thirteen places further, as a capital."""
    is_letter = char.isascii() and char.isalpha()
    return chr((ord(char.upper()) - 65 + 13) % 26 + 65) if is_letter else char


def cyrillic(char: str) -> str:
    """A letter of another alphabet."""
    return chr(0x430 + ord(char.lower()) - 97) if char.isascii() and char.isalpha() else char


def write_translator(path: Path, speech: Speech = french, **settings: Any) -> Path:
    """From English into French, which is English in capitals with accents."""
    facts = {"source_languages": {"en": Language()}, "target_languages": {"fr": Language()}}
    return write_seq2seq(path, {"fr": speech}, facts=facts, **settings)


def write_polyglot(path: Path, **settings: Any) -> Path:
    """From English or German into French, German and Russian, named by the first token of a row."""
    speeches = {"fr": french, "de": rot13, "ru": cyrillic}
    targets = {code: Language(before=(LANGUAGES[code],)) for code in speeches}
    facts = {"source_languages": {"en": Language(), "de": Language()}, "target_languages": targets}
    return write_seq2seq(path, speeches, facts=facts, skip=1, **settings)


def write_forced(path: Path) -> Path:
    """The first token of a row names its language, the first token of an output what it is in."""
    facts = {
        "source_languages": {code: Language(before=(LANGUAGES[code],)) for code in ("en", "de")},
        "target_languages": {"fr": Language(forced_bos_token_id=LANGUAGES["fr"])},
    }
    return write_seq2seq(path, {"fr": french}, facts=facts)


def write_summarizer(path: Path, *, ends_after: int = 24, min_new_tokens: int = 0, **settings: Any) -> Path:
    """The first characters of a text are its summary."""
    return write_seq2seq(
        path,
        {"en": str},
        task="summarization",
        facts={"prompt": "tl;dr: "},
        skip=len("tl;dr: "),
        ends_after=ends_after,
        min_new_tokens=min_new_tokens,
        **settings,
    )


def write_seq2seq(
    path: Path,
    speeches: Mapping[str, Speech],
    *,
    facts: Mapping[str, Any],
    task: Seq2SeqTask = "translation",
    skip: int = 0,
    ends_after: int = 1 << 20,
    context_length: int = 64,
    **generation: Any,
) -> Path:
    """Write a complete bundle. The decoder begins at the source's token `skip`; its length is limited."""
    answers = [{char: speech(char) for char in _ASCII} | {LOOP: _LA} for speech in speeches.values()]
    tokenizer = _tokenizer({answer for table in answers for answer in table.values()})
    path.mkdir(parents=True)
    onnx.save(_encoder(), path / "encoder.onnx")
    onnx.save(_decoder(*_scores(tokenizer, answers), skip, ends_after), path / "decoder.onnx")
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "README.md").write_text(f"# {path.name}\n")
    manifest = Manifest(
        name=path.name,
        task=task,
        model_type="marian",
        tier="fast",
        precision="fp32",
        device="cpu",
        context_length=context_length,
        inputs=("input_ids",),
        seq2seq=Seq2SeqFacts(
            generation=replace(
                GenerationConfig(decoder_start_token_id=PAD, eos_token_ids=(END,), max_new_tokens=200),
                **generation,
            ),
            vocab_size=tokenizer.get_vocab_size(),
            **facts,
        ),
        source={"kind": "directory", "model": path.name, "revision": None, "license": None, "tools": {}},
    )
    write_manifest(path, manifest)
    return path


@contextmanager
def open_seq2seq(path: Path, *, threads: int = 1) -> Iterator[tuple[Manifest, Seq2Seq]]:
    """A bundle's manifest and its engine on the CPU."""
    bundle = read_bundle(path)
    with load_seq2seq(bundle, Device("cpu"), threads=threads, report=lambda _: None) as engine:
        yield bundle.manifest, engine


def _tokenizer(answers: set[str]) -> Tokenizer:
    """Bytes, and whole answers, which no text is encoded as."""
    words = sorted({_spelled(answer) for answer in answers} - set(_BYTES))
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *_BYTES, *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return tokenizer


_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def _spelled(text: str) -> str:
    """A text as a byte-level vocabulary writes it."""
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in spelling)


def _scores(tokenizer: Tokenizer, answers: Sequence[Mapping[str, str]]) -> tuple[Floats, Floats]:
    """Of each token to come by the token of the source, language by language; and by the token before."""
    size = tokenizer.get_vocab_size()
    by_source = np.zeros((len(answers), size, size), np.float32)
    by_source[:, range(size), range(size)] = _SECOND
    by_source[:, END, END] = _BEST
    for scores, table in zip(by_source, answers, strict=True):
        for char, answer in table.items():
            token, best = (tokenizer.token_to_id(_spelled(text)) for text in (char, answer))
            scores[token, best] = _BEST
    by_last = np.zeros((size, size), np.float32)
    la = tokenizer.token_to_id(_spelled(_LA))
    by_last[la, la] = _SURE
    return by_source.reshape(-1, size), by_last


def _encoder() -> onnx.ModelProto:
    """input_ids (batch, sequence) to cross keys and values (batch, 1, sequence, 1): the same as numbers."""
    graph = Graph()
    tokens = graph.op("Cast", "input_ids", to=_FLOAT)
    graph.op("Unsqueeze", tokens, graph.constant([1, 3]), output="cross.0.key")
    graph.op("Identity", "cross.0.key", output="cross.0.value")
    cross: Tensor = (_FLOAT, ["batch", 1, "sequence", 1])
    return graph.model(
        inputs={"input_ids": (_INT64, ["batch", "sequence"])},
        outputs={"cross.0.key": cross, "cross.0.value": cross},
    )


def _decoder(by_source: Floats, by_last: Floats, skip: int, ends_after: int) -> onnx.ModelProto:
    """One step: the token of the source at the place of each row, looked up in the table of the language."""
    graph = Graph()
    size = by_last.shape[1]
    keys = graph.op("Squeeze", "cross.0.key", graph.constant([1, 3]))  # (sources, source)
    keys = graph.op("Mul", keys, graph.op("Cast", "source_mask", to=_FLOAT))
    keys = graph.op("Cast", keys, to=_INT64)
    # (rows, source): the beams of a source lie together.
    sources, length = (graph.op("Gather", graph.op("Shape", keys), graph.constant([axis])) for axis in (0, 1))
    rows = graph.op("Shape", "input_ids", start=0, end=1)
    beams = graph.op("Div", rows, sources)
    wide = graph.op("Concat", sources, beams, length, axis=0)
    keys = graph.op("Expand", graph.op("Unsqueeze", keys, graph.constant([1])), wide)
    keys = graph.op("Reshape", keys, graph.op("Concat", rows, length, axis=0))
    last = graph.op("Sub", length, graph.constant([1]))
    place = graph.op("Cast", "past_length", to=_INT64)  # (rows,)
    place = graph.op("Min", graph.op("Add", place, graph.constant([skip])), last)
    token = graph.op("GatherElements", keys, graph.op("Unsqueeze", place, graph.constant([1])), axis=1)
    first = graph.op("Gather", keys, graph.constant([0]), axis=1)
    language = graph.op("Sub", first, graph.constant([LANGUAGES["fr"]]))
    language = graph.op("Max", language, graph.constant([0]))
    language = graph.op("Min", language, graph.constant([len(by_source) // size - 1]))
    index = graph.op("Add", graph.op("Mul", language, graph.constant([size])), token)  # (rows, 1)
    scores = graph.op("Gather", graph.constant(by_source, "by_source"), index, axis=0)
    scores = graph.op(
        "Add", scores, graph.op("Gather", graph.constant(by_last, "by_last"), "input_ids", axis=0)
    )
    is_over = graph.op("GreaterOrEqual", "past_length", graph.constant(np.array(ends_after, np.int32)))
    is_over = graph.op("Cast", graph.op("Unsqueeze", is_over, graph.constant([1])), to=_FLOAT)
    end = np.zeros((1, size), np.float32)
    end[0, END] = 2 * _SURE
    end_scores = graph.op("Mul", is_over, graph.constant(end, "end"))
    logits = graph.op("Add", graph.op("Squeeze", scores, graph.constant([1])), end_scores)
    graph.ops("TopK", logits, "k", outputs=["top_logits", "top_ids"], axis=-1)
    graph.op("ReduceLogSumExp", logits, graph.constant([-1]), keepdims=1, output="log_normalizer")
    for name in ("key", "value"):
        graph.op("Identity", f"past.0.{name}", output=f"present.0.{name}")
    past: Tensor = (_FLOAT, ["rows", 1, "capacity", 1])
    cross: Tensor = (_FLOAT, ["sources", 1, "source", 1])
    return graph.model(
        inputs={
            "input_ids": (_INT64, ["rows", 1]),
            "past_length": (_INT32, ["rows"]),
            "total_length": (_INT32, []),
            "source_mask": (_INT32, ["sources", "source"]),
            "k": (_INT64, [1]),
            "past.0.key": past,
            "past.0.value": past,
            "cross.0.key": cross,
            "cross.0.value": cross,
        },
        outputs={
            "top_logits": (_FLOAT, ["rows", "k"]),
            "top_ids": (_INT64, ["rows", "k"]),
            "log_normalizer": (_FLOAT, ["rows", 1]),
            "present.0.key": past,
            "present.0.value": past,
        },
    )
