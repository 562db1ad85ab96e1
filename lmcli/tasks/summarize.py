"""`Summarize`: a short text for a long one.

An encoder-decoder is made for that; a language model is asked for it, by its chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from lmcli.bundle.manifest import Language, Manifest
from lmcli.engine.tokenizer import Ints, TokenizeError, Tokenizer
from lmcli.prompting.chat import ChatTemplate
from lmcli.records.record import Record
from lmcli.tasks import degenerate
from lmcli.tasks.base import Outcome, annotate
from lmcli.tasks.chunks import chunks
from lmcli.tasks.degenerate import FLAGS
from lmcli.tasks.generator import Answer, Ask, Engine, Generator, Output, Rows, framed, good_rows
from lmcli.tasks.instructed import instructed
from lmcli.tasks.results import Result, Results, combine
from lmcli.tasks.sentences import sentences
from lmcli.tasks.summarize_options import INSTRUCTIONS, Length, SummarizeOptions, plan

_SHORTEST = 16
"""In tokens: a text of no more is its own summary."""
_SHRINKS = 0.9
"""Summaries of chunks that together are longer than this share of the text will not end in one."""


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
        config, self._limits, self._row_length, self._language = plan(manifest, options)
        self._generator = Generator(
            engine,
            config,
            _rows(manifest, engine.tokenizer, chat, options.length),
            judge=_flags,
            polish=self._whole_sentences,
            retry=options.generation.retry_degenerate,
        )
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
        return annotate(
            records,
            self._start,
            lambda _, found: results.fields({"": found}),
            empty=results.empty,
            counts=lambda found: results.counts({"": found}),
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
        result = result._replace(
            flags=[flag for flag in FLAGS if flag in flags],
            num_read=self.result.num_read + result.num_read,
            num_written=self.result.num_written + result.num_written,
        )
        return self._replace(text=result.texts[0], result=result)


_Progress = tuple[dict[str, Result | TokenizeError], dict[str, _Document]]


def _rows(manifest: Manifest, tokenizer: Tokenizer, chat: ChatTemplate | None, length: Length) -> Rows:
    """How the model gets texts."""
    if manifest.seq2seq is not None:
        return framed(tokenizer, Language(prompt=manifest.seq2seq.prompt))
    assert chat is not None, "a language model is asked by its chat template"
    return instructed(tokenizer, chat, INSTRUCTIONS[length])


def _plain(text: str) -> str:
    """White space as single spaces, as the models know it from their training."""
    return " ".join(text.split())


def _flags(text: str, output: Output) -> list[str]:
    before, after = degenerate.words(text), degenerate.words(output.text)
    signs = {
        "repetition": degenerate.repeats_itself(before, after),
        "copy": degenerate.copies(before, after),
        "length": not output.is_complete or degenerate.is_longer(before, after),
    }
    return [flag for flag, is_so in signs.items() if is_so]
