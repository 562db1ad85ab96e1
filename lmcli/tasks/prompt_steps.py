"""`solve`: questions that a model takes apart, and whose parts it answers one after another.

Zhou et al. 2022, arXiv:2205.10625. All questions advance together: the model has many prompts at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lmcli.prompting.dialogue import Dialogue, Turn
from lmcli.prompting.examples import normalized
from lmcli.prompting.strategy import QUESTION, SUBQUESTION, Decompose, Stepwise
from lmcli.prompting.template import Fields, Template
from lmcli.records.record import Failure
from lmcli.tasks.prompt_writing import Writer, Written


@dataclass
class Path:
    """The way of one question to its answer."""

    fields: Fields
    parts: Sequence[str] = ()
    """What is to be answered, what the question itself asks for last."""
    turns: tuple[Turn, ...] = ()
    """The parts that are answered."""
    written: list[Written] = field(default_factory=list)
    """What the model wrote: the parts, then the answer of each."""
    failure: Failure | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is more to be answered."""
        return self.failure is None and len(self.turns) < len(self.parts)

    @property
    def said(self) -> str:
        """What the model wrote last."""
        return self.written[-1].outputs[0].text

    def take(self, written: Written | Failure) -> bool:
        """Take what the model wrote; whether it wrote something."""
        if isinstance(written, Failure):
            self.failure = written
            return False
        self.written.append(written)
        return True

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Everything that was asked and written."""
        parts, *answers = (each.outputs[0].text for each in self.written)
        asked = zip(self.parts, answers, strict=True)
        return [{"output": parts}, *({SUBQUESTION: part, "output": answer} for part, answer in asked)]


def taking_apart(decompose: Decompose, template: Template, fields: Fields) -> Dialogue:
    """What asks for the parts of a question."""
    return Dialogue(decompose.shots, (), template.into(decompose.template, QUESTION), fields)


def solve(strategy: Stepwise, template: Template, writer: Writer, questions: Sequence[Fields]) -> list[Path]:
    """Take each question apart and answer its parts. Of one that failed `failure` is set."""
    paths = [Path(question) for question in questions]
    dialogues = [taking_apart(strategy.decompose, template, path.fields) for path in paths]
    for path, written in zip(paths, writer(dialogues), strict=True):
        if path.take(written):
            path.parts = _parts(strategy, path.said) or [template.fill(path.fields)]
    step = 0
    while open_ := [path for path in paths if path.is_open]:
        ask = template.into(strategy.solve.ask(step), QUESTION)
        turns = [Turn(ask, {**path.fields, SUBQUESTION: path.parts[step]}, "") for path in open_]
        dialogues = [
            Dialogue(strategy.solve.shots, path.turns, ask, turn.fields)
            for path, turn in zip(open_, turns, strict=True)
        ]
        for path, turn, written in zip(open_, turns, writer(dialogues), strict=True):
            if path.take(written):
                path.turns = (*path.turns, turn._replace(answer=path.said))
        step += 1
    return paths


def _parts(strategy: Stepwise, text: str) -> list[str]:
    """The parts that the model named, each once, and the final one."""
    final = strategy.solve.final
    found = [_group(match).strip() for match in strategy.decompose.split.finditer(text)]
    different = {normalized(part): part for part in found if part}
    if final is not None:
        different.pop(normalized(final), None)  # it is the last one, wherever the model named it
        different[normalized(final)] = final
    return list(different.values())


def _group(match: re.Match[str]) -> str:
    return (match[1] or "") if match.re.groups else match[0]
