"""`fit`: prompts that leave room for their answers. The question is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.prompting.dialogue import Dialogue, Frame, Prompt
from lmcli.records.record import Failure


class Fitted(NamedTuple):
    """A prompt that fits."""

    prompt: Prompt
    dialogue: Dialogue
    num_dropped: int
    """How many of the first examples were left out for that."""


def fit(
    frame: Frame,
    dialogues: Sequence[Dialogue],
    *,
    context_length: int,
    room: int,
    least_room: int,
    drop: bool,
) -> list[Fitted | Failure]:
    """The prompt of each dialogue with `room` for new tokens, or why there is none.

    Without examples `least_room` is enough. With `drop` they are left out, the first ones first.
    """
    found: list[Fitted | Failure] = [Failure("", "")] * len(dialogues)
    open_ = [(number, dialogue, 0) for number, dialogue in enumerate(dialogues)]
    while open_:
        prompts = frame.prompts([dialogue for _, dialogue, _ in open_])
        again = []
        for (number, dialogue, num_dropped), prompt in zip(open_, prompts, strict=True):
            can_drop = drop and bool(dialogue.shots)
            needed = room if dialogue.shots else least_room
            if isinstance(prompt, Failure):
                found[number] = prompt
            elif not len(prompt.input_ids):
                found[number] = Failure("tokenizer", "the prompt has no tokens")
            elif len(prompt.input_ids) + needed <= context_length:
                found[number] = Fitted(prompt, dialogue, num_dropped)
            elif can_drop:
                again.append((number, dialogue._replace(shots=dialogue.shots[1:]), num_dropped + 1))
            else:
                found[number] = _too_long(prompt, context_length - needed)
        open_ = again
    return found


def _too_long(prompt: Prompt, most: int) -> Failure:
    return Failure(
        "too_long", f"the prompt has {len(prompt.input_ids)} tokens, and {most} fit before the answer"
    )
