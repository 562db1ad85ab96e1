"""A tiny causal language model made by hand: it says what it is asked, letter by letter, as a function says.

Each byte of a text is a token, and the keys of its cache are the tokens themselves. In a dialogue it answers
with the last user's turn in capitals. The second best answer to a letter is the letter itself; the answer to
`^` is " la la la", without an end. Plain text it continues with the next letters or digits: abc, defgh...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmcli.bundle.load import load_causal
from lmcli.bundle.manifest import CHAT_TEMPLATE_NAME, CausalFacts, Manifest
from lmcli.bundle.store import read_bundle
from lmcli.engine.causal import Causal
from lmcli.engine.devices import Device
from lmcli.engine.generation import GenerationConfig
from lmcli.export.causal import SCORED
from lmcli.export.choice import CHOICE, choose
from lmcli.export.graph import Graph, Tensor
from tests.tiny import write_manifest

Floats = npt.NDArray[np.float32]
Speech = Callable[[str], str]
"""What a character becomes."""

BEGIN, END, START = "<|im_start|>", "<|im_end|>", "<s>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LOOP, LA = "^", " la"
VOCAB_SIZE = 3 + 256 + 1
_END, _LA = 1, VOCAB_SIZE - 1
_BEST, _SECOND, _SURE = 9.0, 6.0, 40.0
_SPECIAL = (BEGIN, END, START)
_ASCII = [chr(code) for code in range(128)]
_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def write_causal(
    path: Path,
    speech: Speech = str.upper,
    *,
    chat_template: str | None = CHATML,
    ends_after: int = 1 << 20,
    context_length: int = 512,
    **generation: Any,
) -> Path:
    """Write a complete bundle. An answer has at most `ends_after` tokens."""
    tokenizer = _tokenizer()
    path.mkdir(parents=True)
    onnx.save(_graph(_answers(tokenizer, speech), _successors(tokenizer), ends_after), path / "model.onnx")
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "README.md").write_text(f"# {path.name}\n")
    if chat_template is not None:
        (path / CHAT_TEMPLATE_NAME).write_text(chat_template)
    ends = GenerationConfig(eos_token_ids=(_END,), max_new_tokens=64)
    manifest = Manifest(
        name=path.name,
        task="text-generation",
        model_type="llama",
        tier="fast",
        precision="fp32",
        device="cpu",
        context_length=context_length,
        inputs=("input_ids",),
        causal=CausalFacts(
            generation=replace(ends, **generation),
            vocab_size=VOCAB_SIZE,
            before=(_SPECIAL.index(START),),
            special_tokens={"bos_token": START, "eos_token": END},
        ),
        source={"kind": "directory", "model": path.name, "revision": None, "license": None, "tools": {}},
    )
    write_manifest(path, manifest)
    return path


@contextmanager
def open_causal(path: Path, *, threads: int = 1) -> Iterator[tuple[Manifest, Causal]]:
    """A bundle's manifest and its engine on the CPU."""
    bundle = read_bundle(path)
    with load_causal(bundle, Device("cpu"), threads=threads, report=lambda _: None) as engine:
        yield bundle.manifest, engine


def _tokenizer() -> Tokenizer:
    """Bytes, and `LA`, which no text is encoded as."""
    names = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), _spelled(LA)]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _spelled(text: str) -> str:
    """A text as a byte-level vocabulary writes it."""
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in spelling)


def _answers(tokenizer: Tokenizer, speech: Speech) -> Floats:
    """The logits of the next token by that of the question: (vocabulary, vocabulary)."""
    logits = _SECOND * np.eye(VOCAB_SIZE, dtype=np.float32)
    logits[_END, _END] = _BEST
    for char in _ASCII:
        answer = LA if char == LOOP else speech(char)
        logits[_id(tokenizer, char), _id(tokenizer, answer)] = _BEST
    return logits


def _successors(tokenizer: Tokenizer) -> Floats:
    """The logits of the next token by the one before it: (vocabulary, vocabulary)."""
    logits = _SECOND * np.eye(VOCAB_SIZE, dtype=np.float32)
    logits[:, _END] = _BEST
    for char, following in pairwise(_ASCII):
        if char.isalnum() and following.isalnum():
            logits[_id(tokenizer, char), _END] = 0
            logits[_id(tokenizer, char), _id(tokenizer, following)] = _BEST
    return logits


def _id(tokenizer: Tokenizer, text: str) -> int:
    found: int = tokenizer.token_to_id(_spelled(text))
    return found


def _graph(answers: Floats, successors: Floats, ends_after: int) -> onnx.ModelProto:
    """A graph as `lmcli.export.causal` makes it, with one layer, one head, and numbers for keys."""
    graph = Graph()
    held, place = _held(graph)
    last = graph.op("GatherElements", held, place, axis=1)  # the token before the next one
    assistant = _begin_before(graph, held, place)
    user = _begin_before(graph, held, graph.op("Sub", assistant, graph.constant([1])))
    said = graph.op("Sub", graph.op("Sub", place, assistant), graph.constant([len("assistant\n")]))
    said = graph.op("Max", said, graph.constant([0]))  # how many tokens of the answer there are
    asked = graph.op("Add", graph.op("Add", user, graph.constant([1 + len("user\n")])), said)
    asked = graph.op("GatherElements", held, graph.op("Min", asked, place), axis=1)
    logits = graph.op(
        "Where",
        graph.op("GreaterOrEqual", user, graph.constant([0])),
        _looked_up(graph, answers, asked),
        _looked_up(graph, successors, last),
    )
    loops = graph.op("Equal", last, graph.constant([_LA]))
    logits = graph.op("Add", logits, _sure(graph, loops, _LA, _SURE))
    is_over = graph.op("GreaterOrEqual", said, graph.constant([ends_after]))
    choose(graph, graph.op("Add", logits, _sure(graph, is_over, _END, 2 * _SURE)))
    graph.op("GatherElements", "choice_log_probabilities", "scored_ids", axis=-1, output="scored")
    cache: Tensor = (_FLOAT, ["rows", 1, "capacity", 1])
    return graph.model(
        inputs={
            "input_ids": (_INT64, ["rows", "sequence"]),
            "past_length": (_INT32, ["rows"]),
            "total_length": (_INT32, []),
            "wanted": (_INT64, ["outputs"]),
            "scored_ids": (_INT64, ["outputs", "scored"]),
            "k": (_INT64, [1]),
            "past.0.key": cache,
            "past.0.value": cache,
        },
        outputs={**CHOICE, **SCORED, "present.0.key": cache, "present.0.value": cache},
    )


def _held(graph: Graph) -> tuple[str, str]:
    """Write the new tokens into the cache. The tokens of the row of each wanted one, and its place there.

    (outputs, capacity) and (outputs, 1).
    """
    one, inner = graph.constant([1]), graph.constant([1, 3])
    start = graph.op("Unsqueeze", graph.op("Cast", "past_length", to=_INT64), one)  # (rows, 1)
    sequence = graph.op("Shape", "input_ids", start=1, end=2)
    places = graph.op("Add", start, _count(graph, sequence))  # (rows, sequence)
    tokens = graph.op("Unsqueeze", graph.op("Cast", "input_ids", to=_FLOAT), inner)
    indices = graph.op("Unsqueeze", places, inner)
    graph.op("ScatterElements", "past.0.key", indices, tokens, axis=2, output="present.0.key")
    graph.op("Identity", "past.0.value", output="present.0.value")
    held = graph.op("Cast", graph.op("Squeeze", "present.0.key", inner), to=_INT64)  # (rows, capacity)
    place = graph.op("Gather", graph.op("Reshape", places, graph.constant([-1])), "wanted", axis=0)
    return (
        graph.op("Gather", held, graph.op("Div", "wanted", sequence), axis=0),
        graph.op("Unsqueeze", place, one),
    )


def _begin_before(graph: Graph, held: str, place: str) -> str:
    """The last place of BEGIN that is not behind another place, or -1: (outputs, 1)."""
    every = _count(graph, graph.op("Shape", held, start=1, end=2))
    is_begin = graph.op("Equal", held, graph.constant([_SPECIAL.index(BEGIN)]))
    is_one = graph.op("And", is_begin, graph.op("LessOrEqual", every, place))
    places = graph.op("Where", is_one, every, graph.constant([-1]))
    return graph.op("ReduceMax", places, graph.constant([1]), keepdims=1)


def _count(graph: Graph, size: str) -> str:
    """Numbers from 0: size (1,) to (size,)."""
    return graph.op("Range", graph.constant(0), graph.op("Squeeze", size), graph.constant(1))


def _looked_up(graph: Graph, table: Floats, ids: str) -> str:
    """The rows of a table: ids (outputs, 1) to (outputs, vocabulary)."""
    return graph.op("Squeeze", graph.op("Gather", graph.constant(table), ids, axis=0), graph.constant([1]))


def _sure(graph: Graph, condition: str, token: int, logit: float) -> str:
    """What to add so that a token comes where the condition holds: (outputs, 1) to (outputs, vocabulary)."""
    row = np.zeros((1, VOCAB_SIZE), np.float32)
    row[0, token] = logit
    return graph.op("Mul", graph.op("Cast", condition, to=_FLOAT), graph.constant(row))
