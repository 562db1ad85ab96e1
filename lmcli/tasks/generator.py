"""`Generator`: texts that fit into a row of the model to outputs, judged, and decoded again if need be.

`fit` takes texts apart until each part fits.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from lmcli.bundle.manifest import Language
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.run import Job
from lmcli.engine.search import Hypothesis, Source
from lmcli.engine.tokenizer import Ints, TokenizeError, Tokenizer
from lmcli.tasks.degenerate import UNKNOWN
from lmcli.tasks.generation import retry_config
from lmcli.tasks.sentences import halves, needs_model

Rows = Callable[[Sequence[str]], Sequence[Ints | TokenizeError]]
"""From texts to rows of the model, however long."""

_ANY_LANGUAGE = Language()


class Engine(Protocol):
    """A model that writes: `Seq2Seq`, or `Causal`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, which knows the context length."""
        ...

    def submit(self, sources: Sequence[Source], config: GenerationConfig) -> Job:
        """Start the work; the engine sees to it while the caller does something else."""
        ...


class Limits(NamedTuple):
    """How many new tokens an output has."""

    least: int
    most: int


class Ask(NamedTuple):
    """A text to be answered, with its row of the model."""

    text: str
    row: Ints
    limits: Limits


class Output(NamedTuple):
    """One output for a text."""

    text: str
    score: float
    """The mean log-probability of its tokens."""
    num_tokens: int
    is_complete: bool
    """Whether the model ended it, and not the limit."""
    has_unknown: bool = False
    """Whether the model wrote the unknown token, of which nothing is left in the text."""


class Answer(NamedTuple):
    """The outputs for a text, the best first, and what is wrong with the best."""

    outputs: Sequence[Output]
    flags: Sequence[str]
    num_read: int = 0
    """Tokens of the row that was asked."""

    @property
    def may_be_better(self) -> bool:
        """Whether another decoding may have fewer flags: what the source lost is lost to it, too."""
        return self.outputs[0].has_unknown or any(flag != UNKNOWN for flag in self.flags)

    @property
    def num_faults(self) -> tuple[int, bool]:
        """To choose between two answers: the less, the better."""
        return len(self.flags), self.outputs[0].has_unknown


class _Part(NamedTuple):
    """A job, for some of the asked texts."""

    members: Sequence[int]
    config: GenerationConfig
    job: Job


class Generator:
    """Answers texts, which `rows` makes rows of; outputs begin as `target` says.

    `polish` may change an output; `judge` tells what is wrong with it as an answer to a text. With `retry` a
    text is decoded a second time if its answer has flags, and the answer with fewer flags counts.
    """

    def __init__(
        self,
        engine: Engine,
        config: GenerationConfig,
        rows: Rows,
        *,
        target: Language = _ANY_LANGUAGE,
        judge: Callable[[str, Output], Sequence[str]],
        polish: Callable[[Output], Output] = lambda output: output,
        retry: bool = False,
    ) -> None:
        self.rows = rows
        self._engine = engine
        self._unknown = engine.tokenizer.unknown_id
        self._config = config
        self._target = target
        self._judge = judge
        self._polish = polish
        self._retry = retry

    def start(self, asks: Sequence[Ask]) -> Callable[[], list[Answer]]:
        """Start the work; what is returned waits for the answers, in order."""
        parts = self._submit(asks, self._config)
        return lambda: self._finish(asks, parts)

    def _finish(self, asks: Sequence[Ask], parts: Sequence[_Part]) -> list[Answer]:
        answers = self._answers(asks, parts)
        bad = [index for index, answer in enumerate(answers) if answer.may_be_better]
        if self._retry and bad:
            again = [asks[index] for index in bad]
            config = retry_config(self._config)
            if self._unknown is not None:
                config = replace(config, suppress_tokens=(*config.suppress_tokens, self._unknown))
            second = self._answers(again, self._submit(again, config))
            for index, answer in zip(bad, second, strict=True):
                answers[index] = min(answers[index], answer, key=lambda either: either.num_faults)
        return answers

    def _submit(self, asks: Sequence[Ask], config: GenerationConfig) -> list[_Part]:
        """One job for each lower limit, which only a configuration can say."""
        by_least: defaultdict[int, list[int]] = defaultdict(list)
        for index, ask in enumerate(asks):
            by_least[ask.limits.least].append(index)
        parts = []
        for least, members in by_least.items():
            limited = replace(config, min_new_tokens=least)
            sources = [self._source(asks[index]) for index in members]
            parts.append(_Part(members, limited, self._engine.submit(sources, limited)))
        return parts

    def _source(self, ask: Ask) -> Source:
        return Source(
            ask.row,
            ask.limits.most,
            self._target.forced_bos_token_id,
            self._target.decoder_start_token_id,
            seed=zlib.crc32(ask.text.encode()),  # equal texts have equal samples, wherever they stand
        )

    def _answers(self, asks: Sequence[Ask], parts: Sequence[_Part]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for members, config, job in parts:
            for index, outputs in zip(members, self._outputs(job.results(), config), strict=True):
                ask = asks[index]
                flags = self._judge(ask.text, outputs[0])
                if outputs[0].has_unknown or (self._unknown is not None and self._unknown in ask.row):
                    flags = [*flags, UNKNOWN]
                answers[index] = Answer(outputs, flags, len(ask.row))
        return [answers[index] for index in range(len(asks))]

    def _outputs(
        self, results: Sequence[Sequence[Hypothesis]], config: GenerationConfig
    ) -> Iterator[list[Output]]:
        rows = [hypothesis.token_ids for hypotheses in results for hypothesis in hypotheses]
        texts = iter(self._engine.tokenizer.decode(rows))
        for hypotheses in results:
            yield [self._polish(self._output(next(texts), found, config)) for found in hypotheses]

    def _output(self, text: str, found: Hypothesis, config: GenerationConfig) -> Output:
        output = output_of(text, found, config.length_penalty)
        return output._replace(has_unknown=self._unknown in found.token_ids)


def framed(tokenizer: Tokenizer, frame: Language) -> Rows:
    """Rows with the tokens and the prompt of `frame` around each text."""
    before, after = (np.array(ids, np.int64) for ids in (frame.before, frame.after))

    def rows(texts: Sequence[str]) -> list[Ints | TokenizeError]:
        encoded = tokenizer.encode([frame.prompt + text for text in texts])
        return [
            ids if isinstance(ids, TokenizeError) else np.concatenate([before, ids, after]) for ids in encoded
        ]

    return rows


def output_of(text: str, hypothesis: Hypothesis, length_penalty: float) -> Output:
    """What is reported of a hypothesis; its score was divided by its length to the power of the penalty."""
    mean = hypothesis.score * max(hypothesis.num_tokens, 1) ** (length_penalty - 1)
    return Output(text.strip(), mean, hypothesis.num_tokens, hypothesis.is_complete)


class Fitted(NamedTuple):
    """Texts taken apart into rows that fit."""

    cuts: Mapping[str, Sequence[str]]
    """The halves of what was too long, with the white space between them."""
    rows: Mapping[str, Ints | TokenizeError]
    """Of every part that needs the model; what cannot be made to fit is refused."""

    def parts(self, text: str) -> list[str]:
        """The parts of a text; joined they are the text."""
        if text not in self.cuts:
            return [text]
        return [part for half in self.cuts[text] for part in self.parts(half)]


def fit(
    texts: Iterable[str], rows: Rows, context_length: int, *, wanted: Callable[[str], bool] = needs_model
) -> Fitted:
    """Halve texts until each part that is `wanted` has a row of at most `context_length` tokens."""
    cuts: dict[str, Sequence[str]] = {}
    fitting: dict[str, Ints | TokenizeError] = {}
    new = list(dict.fromkeys(filter(wanted, texts)))
    while new:
        for text, row in zip(new, rows(new), strict=True):
            if isinstance(row, TokenizeError) or len(row) <= context_length:
                fitting[text] = row
            elif len(text) > 1:
                cuts[text] = halves(text)
            else:
                fitting[text] = TokenizeError(f"one character is {len(row)} tokens for the model")
        halved = dict.fromkeys(part for text in new if text in cuts for part in cuts[text] if wanted(part))
        new = [part for part in halved if part not in fitting and part not in cuts]
    return Fitted(cuts, fitting)


def good_rows(rows: Iterable[Ints | TokenizeError]) -> list[Ints]:
    """The rows. Raises TokenizeError if one is refused."""
    good = []
    for row in rows:
        if isinstance(row, TokenizeError):
            raise row
        good.append(row)
    return good
