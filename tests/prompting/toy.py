"""A toy language model: bytes are its tokens, and a function says how it goes on.

It speaks ChatML. What it is asked is the text of the last turn, or of a whole raw prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from lmcli.bundle.manifest import CausalFacts, Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Hypothesis, Listen, Source
from lmcli.engine.tokenizer import Ints, Tokenizer
from tests.tiny_causal import BEGIN, END, START

SPECIAL = (BEGIN, END, START, "<unk>")
CONTEXT = 512

Speech = Callable[[str], str]
"""From a question to its answer."""
Taste = Callable[[str, str], float]
"""From a prompt and what follows it to the log-probability of that."""


def shout(question: str) -> str:
    return question.upper()


def tokenizer() -> tokenizers.Tokenizer:
    """Bytes; a space and a letter behind it are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    names = [*SPECIAL, *alphabet, *("".join(pair) for pair in pairs)]
    made = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[(START, 2)])
    return made


def load_tokenizer(folder: Path, *, context_length: int = CONTEXT) -> Tokenizer:
    tokenizer().save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json", context_length=context_length)


def manifest(*, context_length: int = CONTEXT) -> Manifest:
    return Manifest(
        name="toy",
        task="text-generation",
        model_type="llama",
        tier="fast",
        precision="fp32",
        device="cpu",
        context_length=context_length,
        inputs=("input_ids",),
        causal=CausalFacts(
            generation=GenerationConfig(eos_token_ids=(SPECIAL.index(END),), max_new_tokens=20),
            vocab_size=tokenizer().get_vocab_size(),
            before=(SPECIAL.index(START),),
            special_tokens={"bos_token": START, "eos_token": END},
        ),
        source={"kind": "directory", "model": "toy", "revision": None, "license": None, "tools": {}},
    )


class Toy:
    """Answers by `speech`, token by token, and scores by `taste`; keeps what it was shown."""

    def __init__(
        self, tokenizer: Tokenizer, speech: Speech = shout, taste: Taste = lambda _, choice: -len(choice)
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = tokenizer.context_length
        self._speech = speech
        self._taste = taste
        self.seen: list[str] = []
        """The prompts."""
        self.asked: list[int] = []
        """How many prompts came at once."""
        self.config: GenerationConfig | None = None

    def generate(
        self, sources: Sequence[Source], config: GenerationConfig, *, listen: Listen | None = None
    ) -> list[list[Hypothesis]]:
        self.config = config
        self.asked.append(len(sources))
        return [
            [
                self._continue(number, source, config, sample, listen)
                for sample in range(config.num_return_sequences)
            ]
            for number, source in enumerate(sources)
        ]

    def score(
        self, prompts: Sequence[Ints], choices: Sequence[Sequence[Ints]]
    ) -> list[list[npt.NDArray[np.float32]]]:
        self.asked.append(len(prompts))
        return [
            [self._weigh(prompt, row) for row in rows] for prompt, rows in zip(prompts, choices, strict=True)
        ]

    def _continue(
        self, number: int, source: Source, config: GenerationConfig, sample: int, listen: Listen | None
    ) -> Hypothesis:
        prompt = self.text(source.input_ids)
        self.seen.append(prompt)
        answer = self._speech(asked(prompt))
        if config.do_sample:  # a sample differs from others by its seed
            draw = np.random.default_rng([config.seed, source.seed, sample]).integers(3)
            answer = answer.replace("?", str(draw))
        ids = tokenizer().encode(answer, add_special_tokens=False).ids[: source.max_new_tokens]
        for token_id in ids:
            if listen is not None:
                listen(number, token_id)
        return Hypothesis(ids, -0.5 - sample, len(ids), len(ids) < source.max_new_tokens)

    def _weigh(self, prompt: Ints, choice: Ints) -> npt.NDArray[np.float32]:
        self.seen.append(self.text(prompt))
        total = self._taste(self.text(prompt), self.text(choice))
        return np.full(len(choice), total / len(choice), np.float32)

    def text(self, row: Ints) -> str:
        text: str = tokenizer().decode(row.tolist(), skip_special_tokens=False)
        return text


def asked(prompt: str) -> str:
    """The last thing that somebody said."""
    if BEGIN not in prompt:
        return prompt.removeprefix(START)
    return prompt.split(f"{BEGIN}user\n")[-1].partition(END)[0]
