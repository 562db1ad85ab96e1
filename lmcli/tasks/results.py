"""`Results`: the fields that generated texts become, their columns and lines, and what to say in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmcli.records.record import Record
from lmcli.tasks.degenerate import FLAGS
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import Answer, Output
from lmcli.tasks.scores import rounded


class Result(NamedTuple):
    """What is reported of one text."""

    texts: Sequence[str]
    """The best first."""
    scores: Sequence[float | None]
    """The mean log-probability of each text's tokens; None where no model was needed."""
    flags: Sequence[str]
    num_read: int = 0
    """Tokens that the model read for it."""
    num_written: int = 0
    """Tokens that the model wrote, in all texts."""
    is_cut: bool = False
    """Whether the best text ended at a limit."""


def combine(parts: Sequence[str | Answer]) -> Result:
    """The result of a text from its parts: answers, and what stays as it is.

    The i-th text joins the i-th output of each part, or its last.
    """
    answers = [part for part in parts if isinstance(part, Answer)]
    num_texts = max((len(answer.outputs) for answer in answers), default=1)
    chosen = [[_nth(part, index) for part in parts] for index in range(num_texts)]
    flags = {flag for answer in answers for flag in answer.flags}
    return Result(
        ["".join(part if isinstance(part, str) else part.text for part in outputs) for outputs in chosen],
        [_mean([output for output in outputs if isinstance(output, Output)]) for outputs in chosen],
        [flag for flag in FLAGS if flag in flags],
        sum(answer.num_read for answer in answers),
        sum(output.num_tokens for answer in answers for output in answer.outputs),
        any(not answer.outputs[0].is_complete for answer in answers),
    )


def _nth(part: str | Answer, index: int) -> str | Output:
    return part if isinstance(part, str) else part.outputs[min(index, len(part.outputs) - 1)]


def _mean(outputs: Sequence[Output]) -> float | None:
    num_tokens = sum(output.num_tokens for output in outputs)
    return sum(output.score * output.num_tokens for output in outputs) / num_tokens if outputs else None


class Results:
    """What a task adds: `field` and, where asked for, `field_score`, `field_nbest` and `field_flags`.

    With several `keys` (languages) each value is an object by key.
    """

    def __init__(self, field: str, options: GenerationOptions, *, keys: Sequence[str], noun: str) -> None:
        self._field, self._score, self._nbest, self._flags = (
            field + suffix for suffix in ("", "_score", "_nbest", "_flags")
        )
        self._options = options
        self._keys = keys
        self._noun = noun
        shown = [field, *[self._score] * options.scores, *[self._nbest] * (options.nbest is not None)]
        self.adds = (*shown, self._flags)
        """The fields that it adds."""
        columns = [f"{name}.{key}" if len(keys) > 1 else name for name in shown for key in keys]
        self.columns = (*columns, self._flags)
        """What a table shows of them."""
        self.empty = self.fields({key: Result([], [], []) for key in keys})
        """The fields of a record without text."""

    def fields(self, results: Mapping[str, Result]) -> dict[str, Any]:
        """The new fields of a record, from a result for each key."""
        new = {
            self._field: self._by_key({key: _first(result.texts) or "" for key, result in results.items()})
        }
        if self._options.scores:
            scores = {key: _first(_rounded(result.scores)) for key, result in results.items()}
            new[self._score] = self._by_key(scores)
        if self._options.nbest is not None:
            new[self._nbest] = self._by_key({key: _items(result) for key, result in results.items()})
        if flags := {key: list(result.flags) for key, result in results.items() if result.flags}:
            new[self._flags] = self._by_key(flags)
        return new

    def lines(self, record: Record) -> list[str]:
        """The texts of all keys separated by tabs, each behind its score; or a line for each of the n best.

        Such a line has the number of the record's line, the key (of several), the score and the text.
        """
        if not record.text.strip():
            return [""]
        if self._options.nbest is not None:
            return [
                "\t".join(
                    [
                        str(record.line),
                        *[key] * (len(self._keys) > 1),
                        _shown(item["score"]),
                        _cell(item["text"]),
                    ]
                )
                for key, items in self._items(record, self._nbest)
                for item in items
            ]
        cells = [text for _, text in self._items(record, self._field)]
        if self._options.scores:
            scores = [_shown(score) for _, score in self._items(record, self._score)]
            cells = [cell for pair in zip(scores, cells, strict=True) for cell in pair]
        return ["\t".join(map(_cell, cells)) if len(cells) > 1 else cells[0]]

    def counts(self, results: Mapping[str, Result]) -> dict[str, int]:
        """What the numbers of a run add up, from a result for each key."""
        found = results.values()
        counts = {
            "results": len(results),
            "tokens": sum(result.num_read for result in found),
            "new_tokens": sum(result.num_written for result in found),
            "truncated": sum(result.is_cut for result in found),
            "degenerate": sum(bool(result.flags) for result in found),
            **{f"flag:{flag}": sum(flag in result.flags for result in found) for flag in FLAGS},
        }
        return {f"{self._field}.{name}": count for name, count in counts.items() if count}

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        """How many results look degenerate, if any."""
        num_flagged = counts.get(f"{self._field}.degenerate", 0)
        if not num_flagged:
            return []
        by_flag = {flag: counts.get(f"{self._field}.flag:{flag}", 0) for flag in FLAGS}
        kinds = ", ".join(f"{count} {flag}" for flag, count in by_flag.items() if count)
        num_results = counts[f"{self._field}.results"]
        return [
            f"{num_flagged} of {num_results} {self._noun} look{'s' * (num_flagged == 1)} degenerate: "
            f"{kinds} (see {self._flags} in JSONL output)"
        ]

    def _by_key(self, values: Mapping[str, Any]) -> Any:
        return dict(values) if len(self._keys) > 1 else values[self._keys[0]]

    def _items(self, record: Record, name: str) -> list[tuple[str, Any]]:
        value = record.fields[name]
        return [*value.items()] if len(self._keys) > 1 else [(self._keys[0], value)]


def _items(result: Result) -> list[dict[str, Any]]:
    scores = _rounded(result.scores)
    return [{"text": text, "score": score} for text, score in zip(result.texts, scores, strict=True)]


def _rounded(scores: Sequence[float | None]) -> list[float | None]:
    return [None if score is None else rounded(score) for score in scores]


def _first(items: Sequence[Any]) -> Any:
    return items[0] if items else None


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _cell(text: str) -> str:
    """A text among others on a line."""
    return text.replace("\t", r"\t")
