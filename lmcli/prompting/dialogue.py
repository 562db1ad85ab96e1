"""`Frame`: dialogues to the prompts of a model, as its chat template wants them or as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from lmcli.engine.tokenizer import Guarded, Ints, TokenizeError, Tokenizer
from lmcli.prompting.chat import ChatError, ChatTemplate, Message
from lmcli.prompting.guard import Guard, free_character
from lmcli.prompting.template import Fields, Template
from lmcli.records.record import Failure

_BETWEEN = "\n\n"


class Turn(NamedTuple):
    """Something that was asked, and its answer."""

    template: Template
    fields: Fields
    answer: str


class Dialogue(NamedTuple):
    """What a model is shown, and what it is asked."""

    shots: tuple[Turn, ...]
    """Examples, which may be left out."""
    turns: tuple[Turn, ...]
    """What was said before, which may not."""
    template: Template
    fields: Fields
    """Of the question, whose answer the model is to give."""


class Prompt(NamedTuple):
    """A dialogue as the model sees it."""

    guarded: Guarded
    input_ids: Ints


class Frame:
    """Writes dialogues for a model: by its chat template, or without one as blocks of plain text.

    Control tokens come from the chat template, or, without one, from the templates of the dialogue; never
    from the data in them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat: ChatTemplate | None,
        *,
        before: Sequence[int] = (),
        system: str | None = None,
    ) -> None:
        """`before` are the tokens in front of plain text; `system` says what the model is to be."""
        self._tokenizer = tokenizer
        self._chat = chat
        self._before = np.array(before, np.int64)
        self._system = system
        self._protect = Guard(tokenizer.control_tokens).protect
        # Examples come again in every prompt, questions do not.
        self._protect_again = lru_cache(maxsize=1 << 12)(self._protect)

    def prompts(self, dialogues: Sequence[Dialogue]) -> list[Prompt | Failure]:
        """The prompt of each dialogue, or why it has none."""
        written = [self._try(dialogue) for dialogue in dialogues]
        rows = iter(self.encode([each for each in written if isinstance(each, Guarded)]))
        return [each if isinstance(each, Failure) else _prompt(each, next(rows)) for each in written]

    def encode(self, texts: Sequence[Guarded]) -> list[Ints | TokenizeError]:
        """The token ids of whole prompts, or why there are none."""
        rows = self._tokenizer.encode_prompts(texts)
        if self._chat is not None:
            return rows
        return [
            row if isinstance(row, TokenizeError) else np.concatenate([self._before, row]) for row in rows
        ]

    def continued(self, prompt: Guarded, answer: str) -> Guarded:
        """A prompt with its answer behind it."""
        protected = self._protect(answer, prompt.guard)
        return prompt._replace(
            marked=prompt.marked + (protected if self._chat else _spaced(prompt.marked, protected))
        )

    def write(self, dialogue: Dialogue) -> Guarded:
        """The text of a prompt. Raises ChatError, and ValueError as `free_character` does."""
        guard = free_character(self._texts(dialogue))
        mark, mark_again = partial(self._protect, guard=guard), partial(self._protect_again, guard=guard)
        parts = [*((shot, mark_again) for shot in dialogue.shots), *((turn, mark) for turn in dialogue.turns)]
        if self._chat is None:
            blocks = [
                block + _spaced(block, protect(part.answer))
                for part, protect in parts
                for block in [part.template.fill(part.fields, protect)]
            ]
            system = [] if self._system is None else [mark_again(self._system)]
            question = dialogue.template.fill(dialogue.fields, mark)
            return Guarded(_BETWEEN.join([*system, *blocks, question]), guard)
        messages = [] if self._system is None else [Message("system", mark_again(self._system))]
        for part, protect in parts:
            messages.append(Message("user", protect(part.template.fill(part.fields))))
            messages.append(Message("assistant", protect(part.answer)))
        messages.append(Message("user", mark(dialogue.template.fill(dialogue.fields))))
        return Guarded(self._chat.render(messages), guard)

    def _try(self, dialogue: Dialogue) -> Guarded | Failure:
        try:
            return self.write(dialogue)
        except ChatError as error:
            return Failure("chat_template", str(error))
        except ValueError as error:
            return Failure("tokenizer", str(error))

    def _texts(self, dialogue: Dialogue) -> Iterator[str]:
        """All that goes into a prompt but the chat template."""
        yield self._system or ""
        for part in (*dialogue.shots, *dialogue.turns):
            yield part.answer
            yield from part.template.literals
            yield from part.fields.values()
        yield from dialogue.template.literals
        yield from dialogue.fields.values()


def _prompt(text: Guarded, row: Ints | TokenizeError) -> Prompt | Failure:
    return Failure("tokenizer", str(row)) if isinstance(row, TokenizeError) else Prompt(text, row)


def _spaced(question: str, answer: str) -> str:
    """An answer that stands behind plain text, parted from it by white space."""
    return answer if question[-1:].isspace() or answer[:1].isspace() else f" {answer}"
