"""`Prompt`: an answer for each record from a causal language model: written, chosen or worked out in steps.

`Questions` makes the dialogues, which `ShowPrompts` shows without a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import compress
from typing import Any, NamedTuple

import orjson

from lmcli.bundle.manifest import Manifest
from lmcli.metrics.accuracy import Tally, marks
from lmcli.prompting.dialogue import Dialogue, Frame, Turn
from lmcli.prompting.examples import Shots, normalized
from lmcli.prompting.model import LanguageModel
from lmcli.prompting.strategy import QUESTION, Stepwise, extract
from lmcli.prompting.template import Fields, MissingFieldError, pick
from lmcli.records.record import Failure, Record, find_value
from lmcli.records.windows import iter_windows
from lmcli.tasks.counts import own_counts
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.prompt_choosing import Chooser, Chosen
from lmcli.tasks.prompt_options import PromptOptions, plan
from lmcli.tasks.prompt_steps import Path, solve, taking_apart
from lmcli.tasks.prompt_writing import Show, Stream, Writer, Written
from lmcli.tasks.results import Result, Results
from lmcli.tasks.scores import rounded

FLAGS = ("repetition", "length_limit", "unanswered")
"""What may be wrong with an answer."""

# Enough prompts to keep a decoder busy, few enough for a first answer within some seconds. Choices take one
# step of the model, written answers hundreds.
_WINDOW_WRITTEN, _WINDOW_CHOSEN = 64, 512
_WINDOW_CHARS = 1 << 18


class Answer(NamedTuple):
    """What is reported of one question."""

    result: Result
    more: Mapping[str, Any]
    """Fields that not every answer has, by what comes behind the name of the first one."""


class Questions:
    """What is asked of each record."""

    def __init__(self, options: PromptOptions, shots: Shots | None) -> None:
        self._options = options
        self._shots = shots

    def pick(self, record: Record) -> Fields | Failure:
        """The fields of the template, or why the record lacks one."""
        try:
            return pick(self._options.template.fields, record.all_values(), text=record.text)
        except MissingFieldError as error:
            return Failure("missing_field", str(error))

    def dialogues(self, questions: Sequence[Fields]) -> list[Dialogue]:
        """What a model is asked first."""
        strategy, template = self._options.strategy, self._options.template
        if isinstance(strategy, Stepwise):
            return [taking_apart(strategy.decompose, template, fields) for fields in questions]
        ask = template.into(strategy.template, QUESTION)
        chosen = self._shots(questions) if self._shots else [()] * len(questions)
        return [
            Dialogue(tuple(Turn(ask, shot.fields, shot.answer) for shot in shots), (), ask, fields)
            for fields, shots in zip(questions, chosen, strict=True)
        ]


class Prompt:
    """Adds the answer, a string. Equal questions are asked once.

    With `show` a single answer is shown while it is written, and `lines` has what is left of it.
    """

    def __init__(
        self,
        manifest: Manifest,
        model: LanguageModel,
        frame: Frame,
        options: PromptOptions,
        *,
        shots: Shots | None = None,
        show: Show | None = None,
    ) -> None:
        """Raises UsageError like `plan`."""
        config, drop = plan(manifest, options), options.fit == "drop"
        self._options = options
        self._model = model
        self._questions = Questions(options, shots)
        self._writer = Writer(
            model,
            frame,
            config,
            leaves_room=options.generation.max_new_tokens is not None,
            drop=drop,
            retry=options.generation.retry_degenerate,
        )
        how = options.normalize or "sum"
        self._chooser = (
            Chooser(
                model,
                frame,
                options.choices,
                how=how,
                calibrate=options.calibrate,
                drop=drop,
                start=config.eos_token_ids[:1],
            )
            if options.choices
            else None
        )
        self._show = show if options.is_shown_at_once and config.num_beams == 1 else None
        self._shown = ""
        reported = GenerationOptions(scores=True) if options.choices else options.generation
        field = options.as_field
        self._results = Results(field, reported, keys=[field], noun="answers")
        self.adds = (*self._results.adds, *(f"{field}_{suffix}" for suffix in _suffixes(options)))
        self.columns = self._results.columns

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Answer records lazily, in order."""
        size = _WINDOW_CHOSEN if self._options.choices else _WINDOW_WRITTEN
        for window in iter_windows(records, max_records=size, max_chars=_WINDOW_CHARS):
            yield from self._window(window)

    def lines(self, record: Record) -> list[str]:
        """The answer, as translations are shown; with choices answer, score and text."""
        field, shown = self._options.as_field, self._shown
        answer, self._shown = record.fields[field], ""
        if shown:
            return [answer.removeprefix(shown)] if answer.startswith(shown) else ["", answer]
        if self._options.choices and answer:
            return [f"{answer}\t{record.fields[f'{field}_score']:.4f}\t{record.text}"]
        return self._results.lines(record.with_text(answer))  # it shows nothing where there is no text

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        """What is wrong with answers, which prompts were shortened, and how many answers are right."""
        count = Counter(own_counts(self._options.as_field, counts))
        lines = []
        if flagged := [f"{number} {flag}" for flag in FLAGS if (number := count[f"flag:{flag}"])]:
            name = f"{self._options.as_field}_flags"
            lines.append(f"of {count['results']} answers: {', '.join(flagged)} (see {name} in JSONL output)")
        if num_dropped := count["dropped"]:
            prompts = "prompt" if num_dropped == 1 else "prompts"
            name = f"{self._options.as_field}_dropped"
            lines.append(f"{num_dropped} {prompts} lost examples, to fit (see {name} in JSONL output)")
        if self._options.gold is not None:
            field = self._options.as_field
            lines.append(("" if field == PromptOptions.as_field else f"{field}: ") + Tally(count).line())
        return lines

    def _window(self, window: Sequence[Record]) -> Iterator[Record]:
        picked = [self._pick(record) for record in window]
        asked = {_key(fields): fields for fields in picked if not isinstance(fields, Failure)}
        asked = {key: fields for key, fields in asked.items() if has_text(fields)}
        stream = None
        if self._show is not None and len(window) == len(asked) == 1:
            stream = Stream(self._model.tokenizer.streamer(), self._show, self._options.stop)
        answers = dict(zip(asked, self._answers(list(asked.values()), stream), strict=True))
        self._shown = stream.shown if stream else self._shown
        for record, fields in zip(window, picked, strict=True):
            found = fields if isinstance(fields, Failure) else answers.get(_key(fields))
            yield self._finished(record, found) if record.is_open else record

    def _pick(self, record: Record) -> Fields | Failure:
        """The fields to ask with; a record that lacks the right answer is not asked either."""
        if not record.is_open:
            return {}
        fields = self._questions.pick(record)
        if self._options.gold is not None and not isinstance(fields, Failure) and has_text(fields):
            gold = _gold(record, self._options.gold)
            return gold if isinstance(gold, Failure) else fields
        return fields

    def _finished(self, record: Record, found: Answer | Failure | None) -> Record:
        """The record with its answer, or its failure, or the fields of one that asks nothing."""
        if isinstance(found, Failure):
            return record.failed(found.code, found.message)
        if found is None:
            return record.with_fields(**self._results.empty)
        field = self._options.as_field
        fields = {
            **self._results.fields({field: found.result}),
            **{f"{field}_{suffix}": value for suffix, value in found.more.items()},
        }
        return record.with_result(fields, self._counts(record, found))

    def _counts(self, record: Record, found: Answer) -> dict[str, int]:
        """What the numbers of the run add up."""
        result = found.result
        is_short = "dropped" in found.more
        counts = {
            "results": 1,
            "tokens": result.num_read,
            "new_tokens": result.num_written,
            "truncated": result.is_cut or is_short,
            "degenerate": "repetition" in result.flags,
            "dropped": is_short,
            **{f"flag:{flag}": flag in result.flags for flag in FLAGS},
        }
        if self._options.gold is not None:
            gold = _gold(record, self._options.gold)
            assert isinstance(gold, str), "a record without it was not asked"
            counts |= marks(gold, result.texts[0]) if gold.strip() else {}
        return {f"{self._options.as_field}.{name}": int(count) for name, count in counts.items() if count}

    def _answers(self, questions: Sequence[Fields], stream: Stream | None) -> list[Answer | Failure]:
        """The answer to each question, or why there is none."""
        options = self._options
        if isinstance(options.strategy, Stepwise):
            paths = solve(options.strategy, options.template, self._writer, questions)
            return [path.failure or self._worked_out(path) for path in paths]
        dialogues = self._questions.dialogues(questions)
        if self._chooser is not None:
            chosen = self._chooser(dialogues)
            return [each if isinstance(each, Failure) else self._chosen(each) for each in chosen]
        written = self._writer(dialogues, stream)
        return [each if isinstance(each, Failure) else self._written(each) for each in written]

    def _chosen(self, chosen: Chosen) -> Answer:
        shares = dict(zip(self._options.choices, map(rounded, chosen.shares), strict=True))
        best = self._options.choices[int(chosen.shares.argmax())]
        result = Result([best], [shares[best]], [], chosen.num_read)
        return Answer(result, {"scores": shares, **_dropped(chosen.num_dropped)})

    def _written(self, written: Written) -> Answer:
        texts = [output.text for output in written.outputs]
        answers = [self._extracted(text) for text in texts]
        more = _dropped(written.num_dropped)
        if self._options.pattern is not None:
            more["trace"] = [{"output": text} for text in texts]
        if self._options.samples is not None:
            votes = _votes([answer for answer in answers if answer is not None])
            best = next(iter(votes), None)
            same = [answer is None if best is None else _is_same(answer, best) for answer in answers]
            flags = {flag for each in compress(written.flags, same) for flag in each}
            return Answer(_result([best], [None], flags, [written]), {"votes": votes, **more})
        scores = [output.score for output in written.outputs]
        return Answer(_result(answers, scores, set(written.flags[0]), [written]), more)

    def _worked_out(self, path: Path) -> Answer:
        flags = {flag for written in path.written for flag in written.flags[0]}
        last = path.written[-1].outputs[0]
        more = _dropped(max(written.num_dropped for written in path.written))
        result = _result([self._extracted(last.text)], [last.score], flags, path.written)
        return Answer(result, {"trace": path.trace, **more})

    def _extracted(self, text: str) -> str | None:
        pattern = self._options.pattern
        return text if pattern is None else extract(pattern, text)


def question_of(record: Record, options: PromptOptions) -> str | None:
    """What of a record decides its answer and what is counted of it; None if it lacks a field."""
    gold = None if options.gold is None else _gold(record, options.gold)
    try:
        found = pick(options.template.fields, record.all_values(), text=record.text)
    except MissingFieldError:
        return None
    return None if isinstance(gold, Failure) else orjson.dumps([*found.values(), gold]).decode()


def _gold(record: Record, name: str) -> str | Failure:
    """The right answer; "" if the record does not say."""
    values = record.all_values()
    with suppress(KeyError):
        if find_value(values, name) is None:
            return ""
    try:
        return pick([name], values)[name]
    except MissingFieldError as error:
        return Failure("missing_field", str(error))


def _key(fields: Fields) -> tuple[str, ...]:
    return tuple(fields.values())


def has_text(fields: Fields) -> bool:
    """Blank lines keep their slot and never reach a model."""
    return any(value.strip() for value in fields.values())


def _votes(answers: Sequence[str]) -> dict[str, int]:
    """How often each answer was given, the most frequent first, of equally frequent ones the first given."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for answer in answers:
        names.setdefault(normalized(answer), answer)
        counts[normalized(answer)] += 1
    return {names[key]: count for key, count in counts.most_common()}


def _is_same(answer: str | None, best: str) -> bool:
    return answer is not None and normalized(answer) == normalized(best)


def _result(
    answers: Sequence[str | None],
    scores: Sequence[float | None],
    flags: Set[str],
    written: Sequence[Written],
) -> Result:
    found = flags | ({"unanswered"} if answers[0] is None else set())
    return Result(
        [answer or "" for answer in answers],
        scores,
        [flag for flag in FLAGS if flag in found],
        sum(each.num_read for each in written),
        sum(output.num_tokens for each in written for output in each.outputs),
        "length_limit" in found,
    )


def _dropped(count: int) -> dict[str, Any]:
    return {"dropped": count} if count else {}


def _suffixes(options: PromptOptions) -> list[str]:
    """The fields that an answer may have besides those of `Results`."""
    may_have = {
        "scores": bool(options.choices),
        "votes": options.samples is not None,
        "trace": options.pattern is not None or isinstance(options.strategy, Stepwise),
        "dropped": True,
    }
    return [suffix for suffix, is_so in may_have.items() if is_so]
