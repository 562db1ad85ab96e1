"""`Strategy`: how a question is put to a model, at once or taken apart; TOML as in `strategies/`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import msgspec

from lmcli.errors import UsageError, reason
from lmcli.prompting.dialogue import Turn
from lmcli.prompting.template import Template

QUESTION = "question"
SUBQUESTION = "subquestion"

_SHIPPED = Path(__file__).parent / "strategies"


class Direct(NamedTuple):
    """A question that is asked at once."""

    template: Template
    extract: re.Pattern[str] | None


class Decompose(NamedTuple):
    """How a question is taken apart."""

    template: Template
    split: re.Pattern[str]
    shots: tuple[Turn, ...]


class Solve(NamedTuple):
    """How its parts are answered, one after another."""

    first: Template
    """Asks the first part."""
    template: Template
    """Asks every other part."""
    final: str | None
    """The last part, whatever the others are; None: the last of those that were found."""
    extract: re.Pattern[str] | None
    shots: tuple[Turn, ...]

    def ask(self, step: int) -> Template:
        """The template of a step, from 0."""
        return self.template if step else self.first


class Stepwise(NamedTuple):
    """A question that is taken apart."""

    decompose: Decompose
    solve: Solve


Strategy = Direct | Stepwise


def strategy_names() -> list[str]:
    """Those that ship with lmcli."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def read_strategy(name: str) -> Strategy:
    """The strategy of that name, or of that file. Raises UsageError for what is none."""
    names = strategy_names()
    if not name.endswith(".toml") and name not in names:
        raise UsageError(f"there is no strategy {name!r}", hint=f"there are {', '.join(names)}, or FILE.toml")
    path = _SHIPPED / f"{name}.toml" if name in names else Path(name)
    try:
        return _strategy(msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), _File), name)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, re.error) as error:
        raise UsageError(f"{name}: not a strategy: {reason(error)}") from error


def extract(pattern: re.Pattern[str], text: str) -> str | None:
    """The answer in a text: the first group that the last match has, or all of it; None: there is none."""
    matches = list(pattern.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    found = next((group for group in last.groups() if group is not None), None) if pattern.groups else last[0]
    return None if found is None else found.strip()


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    template: str
    extract: str | None = None


class _Example(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    answer: str


class _Decompose(msgspec.Struct, forbid_unknown_fields=True):
    template: str
    split: str
    examples: tuple[_Example, ...] = ()


class _Worked(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    steps: tuple[tuple[str, str], ...]


class _Solve(msgspec.Struct, forbid_unknown_fields=True):
    template: str
    first: str | None = None
    final: str | None = None
    extract: str | None = None
    examples: tuple[_Worked, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A strategy file: either `answer`, or `decompose` and `solve`."""

    answer: _Answer | None = None
    decompose: _Decompose | None = None
    solve: _Solve | None = None


def _strategy(form: _File, name: str) -> Strategy:
    match form:
        case _File(answer=_Answer() as answer, decompose=None, solve=None):
            return Direct(_template(answer.template, name, QUESTION), _pattern(answer.extract))
        case _File(answer=None, decompose=_Decompose() as decompose, solve=_Solve() as solve):
            return Stepwise(_decompose(decompose, name), _solve(solve, name))
    raise UsageError(f"{name}: not a strategy: it needs `answer`, or both `decompose` and `solve`")


def _decompose(form: _Decompose, name: str) -> Decompose:
    template = _template(form.template, name, QUESTION)
    shots = tuple(Turn(template, {QUESTION: each.question}, each.answer) for each in form.examples)
    return Decompose(template, re.compile(form.split), shots)


def _solve(form: _Solve, name: str) -> Solve:
    template = _template(form.template, name, SUBQUESTION, QUESTION)
    first = template if form.first is None else _template(form.first, name, SUBQUESTION, QUESTION)
    solve = Solve(first, template, form.final, _pattern(form.extract), ())
    return solve._replace(
        shots=tuple(
            Turn(solve.ask(step), {QUESTION: worked.question, SUBQUESTION: part}, answer)
            for worked in form.examples
            for step, (part, answer) in enumerate(worked.steps)
        )
    )


def _template(source: str, name: str, needed: str, allowed: str | None = None) -> Template:
    template = Template.parse(source)
    if needed not in template.fields or set(template.fields) - {needed, allowed}:
        raise UsageError(
            f"{name}: not a strategy: a template there must name {{{needed}}}, and no other field"
        )
    return template


def _pattern(source: str | None) -> re.Pattern[str] | None:
    return None if source is None else re.compile(source)
