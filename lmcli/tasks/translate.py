"""`Translate`: each text in other languages, sentence by sentence, with any encoder-decoder made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lmcli.bundle.manifest import Language, Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.engine.tokenizer import TokenizeError
from lmcli.records.record import Record
from lmcli.tasks import degenerate
from lmcli.tasks.base import Outcome, annotate, check_field_name
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import Answer, Ask, Fitted, Generator, Limits, Output, fit, framed, good_rows
from lmcli.tasks.languages import (
    choose_source,
    choose_targets,
    has_spaces,
    is_same,
    scripts,
    splitter_language,
)
from lmcli.tasks.results import Result, Results, combine
from lmcli.tasks.sentences import pieces, spaced, unwrap

# Beams of short sentences: enough of them to fill the rows of a decoder, and few left at the end.
_WINDOW_RECORDS = 4096
_WINDOW_CHARS = 1 << 16  # some seconds of work, so that results and progress are seen


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """How `Translate` cuts texts, into which languages, and how it reports."""

    to: tuple[str, ...] = ()
    """Codes or names of languages; empty: the only one that the model has."""
    from_: str | None = None
    """None: the only one that the model has, or whichever a text is in."""
    split: bool = True
    """Translate sentence by sentence, not line by line."""
    unwrap: bool = False
    """Take single line breaks for spaces."""
    as_field: str = "translation"
    """The name of the field that it adds, and the beginning of those of the others."""
    generation: GenerationOptions = field(default_factory=GenerationOptions)

    def __post_init__(self) -> None:
        """Raise UsageError for a field name that records need themselves."""
        check_field_name(self.as_field)


class Plan(NamedTuple):
    """What the options mean for a model."""

    source: str
    """The code of the language that texts are in; may be empty."""
    frames: Mapping[str, Language]
    """What stands around a text, by the code of the target language."""
    config: GenerationConfig


def plan(manifest: Manifest, options: TranslateOptions) -> Plan:
    """Find the languages. Raises UsageError where the model lacks them or needs to be told."""
    facts = manifest.seq2seq
    assert facts is not None, "the manifest of a translation model has seq2seq"
    source = choose_source(facts.source_languages, options.from_)
    targets = choose_targets(facts.target_languages, options.to)
    speaker = facts.source_languages.get(source, Language())
    frames = {}
    for code in targets:
        frame = speaker.into(facts.target_languages.get(code, Language()))
        frames[code] = replace(frame, prompt=facts.prompt + frame.prompt)
    most = max(facts.generation.max_new_tokens, manifest.context_length)
    return Plan(source, frames, options.generation.config(facts.generation, most_tokens=most))


class Translate:
    """Adds the translation, a string; with several target languages an object by code.

    A sentence whose row would be too long is taken apart further, never cut off. What has no words stays as
    it is, and so does all white space.
    """

    def __init__(self, manifest: Manifest, engine: Seq2Seq, options: TranslateOptions) -> None:
        """Raises UsageError like `plan`."""
        source, frames, config = plan(manifest, options)
        self._options = options
        self._splitter = splitter_language(source) if options.split else None
        self._targets = [
            _Target(
                code,
                Generator(
                    engine,
                    config,
                    framed(engine.tokenizer, frame),
                    target=frame,
                    judge=_judge(source, code),
                    retry=options.generation.retry_degenerate,
                ),
                _limits(config, is_given=options.generation.max_new_tokens is not None),
                engine.tokenizer.context_length,
            )
            for code, frame in frames.items()
        ]
        self._results = Results(options.as_field, options.generation, keys=[*frames], noun="translations")
        self.adds = self._results.adds
        self.columns = self._results.columns
        self.lines = self._results.lines
        self.remarks = self._results.remarks

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Translate records lazily, in order."""
        results = self._results
        return annotate(
            records,
            self._start,
            lambda _, found: results.fields(found),
            empty=results.empty,
            counts=results.counts,
            max_records=_WINDOW_RECORDS,
            max_chars=_WINDOW_CHARS,
        )

    def _start(self, texts: Iterable[str]) -> Outcome[dict[str, Result]]:
        cut = {text: pieces(unwrap(text) if self._options.unwrap else text, self._splitter) for text in texts}
        wanted = dict.fromkeys(piece for found in cut.values() for piece in found)
        waiting = {target.code: target.start(wanted) for target in self._targets}

        def results() -> dict[str, dict[str, Result] | TokenizeError]:
            compose = {code: wait() for code, wait in waiting.items()}
            return {text: _in_all_languages(found, compose) for text, found in cut.items()}

        return results


Compose = Callable[[Sequence[str]], Result]
"""From the pieces of a text to its result. Raises TokenizeError."""


def _in_all_languages(
    found: Sequence[str], compose: Mapping[str, Compose]
) -> dict[str, Result] | TokenizeError:
    try:
        return {code: compose[code](found) for code in compose}
    except TokenizeError as error:
        return error


@dataclass(frozen=True)
class _Target:
    """One language to translate into."""

    code: str
    generator: Generator
    limits: Callable[[int], Limits]
    context_length: int

    def start(self, wanted: Iterable[str]) -> Callable[[], Compose]:
        """Start the work on pieces; what is returned waits for it."""
        fitted = fit(wanted, self.generator.rows, self.context_length)
        asks = [
            Ask(text, row, self.limits(len(row)))
            for text, row in fitted.rows.items()
            if not isinstance(row, TokenizeError)
        ]
        wait = self.generator.start(asks)
        is_spaced = has_spaces(self.code)

        def compose() -> Compose:
            answers = {ask.text: answer for ask, answer in zip(asks, wait(), strict=True)}
            return lambda found: _result(found, fitted, answers, is_spaced=is_spaced)

        return compose


def _result(
    found: Sequence[str], fitted: Fitted, answers: Mapping[str, Answer], *, is_spaced: bool
) -> Result:
    parts = [part for piece in found for part in fitted.parts(piece)]
    good_rows(fitted.rows[part] for part in parts if part in fitted.rows)
    return combine([answers.get(part, part) for part in (spaced(parts) if is_spaced else parts)])


def _limits(config: GenerationConfig, *, is_given: bool) -> Callable[[int], Limits]:
    """The limits of an output by the length of its row.

    Translations are hardly ever three times as long as their source, but loops are: unless the user gave a
    limit they end there.
    """

    def limits(num_tokens: int) -> Limits:
        most = config.max_new_tokens if is_given else min(config.max_new_tokens, 3 * num_tokens + 32)
        return Limits(min(config.min_new_tokens, most), most)

    return limits


def _judge(source: str, target: str) -> Callable[[str, Output], list[str]]:
    is_foreign, letters = not is_same(source, target), scripts(target)

    def flags(text: str, output: Output) -> list[str]:
        before, after = degenerate.words(text), degenerate.words(output.text)
        signs = {
            "repetition": degenerate.repeats_itself(before, after),
            "copy": is_foreign and degenerate.copies(before, after),
            "length": not output.is_complete or degenerate.misses_length(before, after),
            "script": bool(letters) and degenerate.misses_script(before, after, letters),
        }
        return [flag for flag, is_so in signs.items() if is_so]

    return flags
