"""`Summarize`: a short text for a long one.

An encoder-decoder is made for that; a language model is asked for it, by its chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, NamedTuple

from lmcli.bundle.manifest import Language, Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.tokenizer import Ints, TokenizeError, Tokenizer
from lmcli.errors import UsageError
from lmcli.prompting.chat import ChatTemplate
from lmcli.prompting.template import Template
from lmcli.records.record import Record
from lmcli.tasks import degenerate
from lmcli.tasks.base import Outcome, annotate, check_field_name
from lmcli.tasks.chunks import chunks
from lmcli.tasks.degenerate import FLAGS
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import (
    Answer,
    Ask,
    Engine,
    Generator,
    Limits,
    Output,
    Rows,
    framed,
    good_rows,
)
from lmcli.tasks.instructed import instructed
from lmcli.tasks.results import Result, Results, combine
from lmcli.tasks.sentences import sentences

Length = Literal["short", "medium", "long"]

_SHORTEST = 16
"""In tokens: a text of no more is its own summary."""
_SHRINKS = 0.9
"""Summaries of chunks that together are longer than this share of the text will not end in one."""
_SIZES = {"short": (0.10, 16, 60), "long": (0.35, 60, 1 << 20)}
"""The share of the source's tokens that a summary may have, at least and at most how many."""

# What a language model is asked. Small ones do better with the instruction behind the text: in front of a
# long one they lose sight of it and go on with the text.
_INSTRUCTIONS: Mapping[Length, Template] = {
    "short": Template.parse("{text}\n\nSummarize the text above in one sentence."),
    "medium": Template.parse("{text}\n\nSummarize the text above in a few sentences."),
    "long": Template.parse("{text}\n\nSummarize the text above in detail."),
}
_MOST_TOKENS = 256
"""Of a language model's summary: its own limit is that of conversations."""
_AGAINST_LOOPS = 0.3
"""The least frequency penalty of a language model."""


@dataclass(frozen=True, kw_only=True)
class SummarizeOptions:
    """How long summaries are to be, and how `Summarize` reports them."""

    length: Length = "medium"
    """Medium: as long as the model was trained to make them."""
    language: str = "en"
    """Of the texts: it decides where sentences end."""
    as_field: str = "summary"
    """The name of the field that it adds, and the beginning of those of the others."""
    generation: GenerationOptions = field(default_factory=GenerationOptions)

    def __post_init__(self) -> None:
        """Raise UsageError for options that exclude each other and a field name that records need."""
        check_field_name(self.as_field)
        for name in ("min_new_tokens", "max_new_tokens"):
            if self.length != "medium" and getattr(self.generation, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"--length and {option} exclude each other", hint="choose one of the two")


class Plan(NamedTuple):
    """What the options mean for a model."""

    config: GenerationConfig
    row_length: int
    """The most tokens of a row."""
    language: str
    """As a sentence splitter calls it."""


def plan(manifest: Manifest, options: SummarizeOptions) -> Plan:
    """Raises UsageError for an unknown language, and for lengths that the model cannot have."""
    language = options.language
    if language != SummarizeOptions.language:
        from lmcli.tasks.languages import parse_language

        language = parse_language(language, "--language")
    if manifest.causal is None:
        config = _seq2seq_config(manifest, options.generation)
        return Plan(config, manifest.context_length, language)
    config = _causal_config(manifest, options.generation)
    return Plan(config, manifest.context_length - config.max_new_tokens, language)


def _seq2seq_config(manifest: Manifest, options: GenerationOptions) -> GenerationConfig:
    assert manifest.seq2seq is not None, "the manifest of a summarization model has seq2seq"
    defaults = manifest.seq2seq.generation
    return options.config(defaults, most_tokens=max(defaults.max_new_tokens, manifest.context_length))


def _causal_config(manifest: Manifest, options: GenerationOptions) -> GenerationConfig:
    """A text and its summary share the context of a language model: half of it is the text's."""
    assert manifest.causal is not None
    published = manifest.causal.generation
    defaults = replace(
        published,
        max_new_tokens=_MOST_TOKENS,
        frequency_penalty=max(published.frequency_penalty, _AGAINST_LOOPS),
    )
    return options.config(defaults, most_tokens=manifest.context_length // 2)


class Summarize:
    """Adds the summary, a string.

    A text longer than the model's context is summarized in chunks, and the summaries are summarized again,
    until one row holds them. A text that is no longer than a summary stays as it is.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        options: SummarizeOptions,
        *,
        chat: ChatTemplate | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`chat` is what a language model needs. `report` hears which texts take several passes.

        Raises UsageError like `plan`.
        """
        config, self._row_length, self._language = plan(manifest, options)
        self._generator = Generator(
            engine,
            config,
            _rows(manifest, engine.tokenizer, chat, options.length),
            judge=_flags,
            polish=self._whole_sentences,
            retry=options.generation.retry_degenerate,
        )
        self._limits = _limits(config, options.length)
        [empty] = good_rows(self._generator.rows([""]))
        self._num_framing = len(empty)
        self._report = report
        self._results = Results(options.as_field, options.generation, keys=[""], noun="summaries")
        self.adds = self._results.adds
        self.columns = self._results.columns
        self.lines = self._results.lines
        self.remarks = self._results.remarks

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Summarize records lazily, in order."""
        results = self._results
        return results.counted(
            annotate(
                records,
                self._start,
                lambda _, found: results.fields({"": found}),
                empty=results.empty,
            )
        )

    def _start(self, texts: Mapping[str, Record]) -> Outcome[Result]:
        documents = {
            text: _Document(f"{record.source}:{record.line}", text, Result([text], [None], []))
            for text, record in texts.items()
        }
        first = self._begin(documents)

        def results() -> dict[str, Result | TokenizeError]:
            done, more = first()
            while more:
                newly_done, more = self._begin(more)()
                done |= newly_done
            return done

        return results

    def _begin(self, documents: Mapping[str, _Document]) -> Callable[[], _Progress]:
        """Start one pass; what is returned waits for it: what is done, and what needs another."""
        done: dict[str, Result | TokenizeError] = {}
        asked: dict[str, tuple[_Document, list[Ask]]] = {}
        rows = self._generator.rows([_plain(document.text) for document in documents.values()])
        for (key, document), row in zip(documents.items(), rows, strict=True):
            try:
                [good] = good_rows([row])
                asked[key] = document.measured(self._size(good)), self._asks(document, good)
            except TokenizeError as error:
                done[key] = error
        wait = self._generator.start([ask for _, asks in asked.values() for ask in asks])

        def progress() -> _Progress:
            answers = iter(wait())
            more = {}
            for key, (document, asks) in asked.items():
                after = document.answered(list(islice(answers, len(asks))))
                if len(asks) > 1:
                    more[key] = after
                else:
                    done[key] = after.result
            return done, more

        return progress

    def _asks(self, document: _Document, row: Ints) -> list[Ask]:
        """What is summarized of a text in this pass: itself, its chunks, or nothing."""
        size = self._size(row)
        limits = self._limits(document.source_tokens or size)
        if size <= max(limits.least, _SHORTEST):
            return []
        if size > _SHRINKS * document.num_tokens > 0:
            self._report(f"{document.where}: the summaries are hardly shorter than the text, so they stand")
            return []
        if len(row) <= self._row_length:
            return [Ask(_plain(document.text), row, limits)]
        found = chunks(document.text, self._generator.rows, self._row_length, self._language)
        sizes = [self._size(chunk.row) for chunk in found]
        self._report(
            f"{document.where}: {len(found)} chunks of about {sum(sizes) // len(found)} tokens, "
            "then one summary of their summaries"
        )
        return [
            Ask(chunk.text, chunk.row, self._limits(size)) for chunk, size in zip(found, sizes, strict=True)
        ]

    def _size(self, row: Ints) -> int:
        """The tokens of the text in a row, without prompt and special tokens."""
        return len(row) - self._num_framing

    def _whole_sentences(self, output: Output) -> Output:
        """An output that reached its limit, without the sentence that the limit cut."""
        whole = [] if output.is_complete else sentences(output.text, self._language)[:-1]
        text = "".join(whole).strip()
        return output._replace(text=text, is_complete=True) if text else output


class _Document(NamedTuple):
    """A text on its way to a summary."""

    where: str
    text: str
    """What the next pass summarizes."""
    result: Result
    """What is reported if there is no next pass."""
    num_tokens: int = 0
    """How many the text of the pass before had; 0: there was none."""
    source_tokens: int = 0
    """How many the original text has; 0: not yet known."""

    def measured(self, num_tokens: int) -> _Document:
        """The document in a pass that begins with so many tokens."""
        return self._replace(num_tokens=num_tokens, source_tokens=self.source_tokens or num_tokens)

    def answered(self, answers: Sequence[Answer]) -> _Document:
        """The document after a pass: unchanged without answers."""
        if not answers:
            return self
        result = combine([part for answer in answers for part in (" ", answer)][1:])
        flags = {*self.result.flags, *result.flags}
        result = result._replace(flags=[flag for flag in FLAGS if flag in flags])
        return self._replace(text=result.texts[0], result=result)


_Progress = tuple[dict[str, Result | TokenizeError], dict[str, _Document]]


def _rows(manifest: Manifest, tokenizer: Tokenizer, chat: ChatTemplate | None, length: Length) -> Rows:
    """How the model gets texts."""
    if manifest.seq2seq is not None:
        return framed(tokenizer, Language(prompt=manifest.seq2seq.prompt))
    assert chat is not None, "a language model is asked by its chat template"
    return instructed(tokenizer, chat, _INSTRUCTIONS[length])


def _plain(text: str) -> str:
    """White space as single spaces, as the models know it from their training."""
    return " ".join(text.split())


def _limits(config: GenerationConfig, length: Length) -> Callable[[int], Limits]:
    """The limits of a summary by the length of its source."""
    if length == "medium":
        return lambda _: Limits(config.min_new_tokens, config.max_new_tokens)
    share, least, most = _SIZES[length]

    def limits(num_tokens: int) -> Limits:
        size = min(max(int(share * num_tokens), least), most, config.max_new_tokens)
        return Limits(size // 2, size)

    return limits


def _flags(text: str, output: Output) -> list[str]:
    before, after = degenerate.words(text), degenerate.words(output.text)
    signs = {
        "repetition": degenerate.repeats_itself(before, after),
        "copy": degenerate.copies(before, after),
        "length": not output.is_complete or degenerate.is_longer(before, after),
    }
    return [flag for flag, is_so in signs.items() if is_so]
