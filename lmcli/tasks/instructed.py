"""`instructed`: texts as what an instruction is about, in rows of a language model."""

from __future__ import annotations

from collections.abc import Sequence

from lmcli.engine.tokenizer import Ints, TokenizeError, Tokenizer
from lmcli.prompting.chat import ChatTemplate
from lmcli.prompting.dialogue import Dialogue, Frame, Prompt
from lmcli.prompting.template import TEXT, Template
from lmcli.records.record import Failure
from lmcli.tasks.generator import Rows

_LONGEST = 1_000_000
"""In characters. No context has room for more, and a chat template makes hardly more than that."""


def instructed(tokenizer: Tokenizer, chat: ChatTemplate, instruction: Template) -> Rows:
    """Rows in which the model is asked, by its chat template, to do with a text what `instruction` says.

    Nothing in a text becomes a control token. Of a text that is too long for any context the row has the
    text alone: it can only be measured.
    """
    frame = Frame(tokenizer, chat)

    def rows(texts: Sequence[str]) -> list[Ints | TokenizeError]:
        asked = [text for text in texts if len(text) <= _LONGEST]
        prompts = iter(frame.prompts([Dialogue((), (), instruction, {TEXT: text}) for text in asked]))
        longer = iter(tokenizer.encode([text for text in texts if len(text) > _LONGEST]))
        return [_row(next(prompts)) if len(text) <= _LONGEST else next(longer) for text in texts]

    return rows


def _row(prompt: Prompt | Failure) -> Ints | TokenizeError:
    return TokenizeError(prompt.message) if isinstance(prompt, Failure) else prompt.input_ids
