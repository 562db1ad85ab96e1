"""`Chooser`: which of a few answers a model finds the likeliest behind a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmcli.engine.tokenizer import Guarded, Ints, TokenizeError, Tokenizer
from lmcli.prompting.choices import (
    CONTENT_FREE,
    Normalize,
    Probabilities,
    calibrated,
    normalize,
    probabilities,
    split_choices,
)
from lmcli.prompting.dialogue import Dialogue, Frame, Prompt
from lmcli.prompting.fit import Fitted, fit
from lmcli.prompting.model import LanguageModel
from lmcli.records.record import Failure
from lmcli.tasks.generator import good_rows


def room_for(choices: Sequence[str], tokenizer: Tokenizer) -> int:
    """How many tokens the longest choice may have behind a prompt."""
    rows = tokenizer.encode_prompts([Guarded(choice, "\0") for choice in choices])
    # It may begin with a space there, and take over a token of the prompt.
    return 2 + max(0 if isinstance(row, TokenizeError) else len(row) for row in rows)


class Chosen(NamedTuple):
    """What a model makes of the choices."""

    shares: Probabilities
    """(choices,): they add up to 1."""
    num_dropped: int
    """How many examples its prompt had to do without."""
    num_read: int
    """Tokens of the prompt."""


class Chooser:
    """Scores all choices behind each prompt.

    With "pmi" a choice is measured against what it gets behind the same prompt with an empty question
    (Holtzman et al. 2021, arXiv:2104.08315); calibration divides by what it gets where the question says
    nothing.
    """

    def __init__(
        self,
        model: LanguageModel,
        frame: Frame,
        choices: Sequence[str],
        *,
        how: Normalize = "sum",
        calibrate: bool = False,
        drop: bool = True,
        start: Sequence[int] = (),
    ) -> None:
        """start: what stands before a prompt without a token of its own: a model needs one to start from."""
        self._model = model
        self._frame = frame
        self._choices = choices
        self._how = how
        self._values = ([""] if how == "pmi" else []) + (list(CONTENT_FREE) if calibrate else [])
        self._calibrate = calibrate
        self._drop = drop
        self._start = np.array(start, np.int64)
        self._context_length = model.tokenizer.context_length
        self._room = room_for(choices, model.tokenizer)

    def __call__(self, dialogues: Sequence[Dialogue]) -> list[Chosen | Failure]:
        """The probabilities of the choices for each dialogue, or why there are none."""
        fitted = fit(
            self._frame,
            dialogues,
            context_length=self._context_length,
            room=self._room,
            least_room=self._room,
            drop=self._drop,
        )
        good = [each for each in fitted if isinstance(each, Fitted)]
        scores = self._scores([each.prompt for each in good])
        bases = self._bases([each.dialogue for each in good])
        chosen = iter(map(self._chosen, good, scores, bases))
        return [each if isinstance(each, Failure) else next(chosen) for each in fitted]

    def _chosen(
        self, fitted: Fitted, scores: Probabilities | Failure, bases: Sequence[Probabilities | Failure]
    ) -> Chosen | Failure:
        known: list[Probabilities] = []
        for each in (scores, *bases):
            if isinstance(each, Failure):
                return each
            known.append(each)
        own, *others = known
        num_read = len(fitted.prompt.input_ids)
        if self._how == "pmi":
            return Chosen(probabilities(own - others[0]), fitted.num_dropped, num_read)
        shares = probabilities(own)
        if self._calibrate:
            shares = calibrated(shares, [probabilities(each) for each in others])
        return Chosen(shares, fitted.num_dropped, num_read)

    def _bases(self, dialogues: Sequence[Dialogue]) -> list[list[Probabilities | Failure]]:
        """The scores behind each prompt with a question that says nothing.

        Most questions have the same examples, so that few of these prompts are different.
        """
        different: dict[tuple[str, ...], Dialogue] = {}
        keys = []
        for dialogue in dialogues:
            shots = [part for turn in dialogue.shots for part in (*turn.fields.values(), turn.answer)]
            keys.append([(*shots, value) for value in self._values])
            for key, value in zip(keys[-1], self._values, strict=True):
                different.setdefault(key, dialogue._replace(fields=dict.fromkeys(dialogue.fields, value)))
        prompts = self._frame.prompts(list(different.values()))
        scores = iter(self._scores([prompt for prompt in prompts if isinstance(prompt, Prompt)]))
        found = {
            key: next(scores) if isinstance(prompt, Prompt) else prompt
            for key, prompt in zip(different, prompts, strict=True)
        }
        return [[found[key] for key in each] for each in keys]

    def _scores(self, prompts: Sequence[Prompt]) -> list[Probabilities | Failure]:
        """One log-probability for each choice behind each prompt."""
        count = len(self._choices)
        rows = self._frame.encode(
            [self._frame.continued(prompt.guarded, choice) for prompt in prompts for choice in self._choices]
        )
        cuts = [
            self._cut(prompt, rows[number * count : (number + 1) * count])
            for number, prompt in enumerate(prompts)
        ]
        good = [cut for cut in cuts if not isinstance(cut, Failure)]
        found = self._model.score([cut[0] for cut in good], [cut[1] for cut in good]) if good else []
        scores = iter(found)
        return [cut if isinstance(cut, Failure) else normalize(next(scores), self._how) for cut in cuts]

    def _cut(
        self, prompt: Prompt, continued: Sequence[Ints | TokenizeError]
    ) -> tuple[Ints, list[Ints]] | Failure:
        """What the model reads, and what is scored."""
        try:
            rows = good_rows(continued)
        except TokenizeError as error:
            return Failure("tokenizer", str(error))
        longest = max(map(len, rows))
        if longest > self._context_length:
            return Failure(
                "too_long", f"with a choice it has {longest} tokens, and {self._context_length} fit"
            )
        common, own = split_choices(prompt.input_ids, rows)
        common = common if len(common) else self._start
        return (common, own) if len(common) else Failure("tokenizer", "the prompt has no tokens")
