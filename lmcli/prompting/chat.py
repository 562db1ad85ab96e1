"""`ChatTemplate`: how a model wants its dialogues written, as its publisher says in Jinja.

minijinja renders it: there is no Python behind a template, so it can reach nothing but what it is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from lmcli.bundle.manifest import CHAT_TEMPLATE_NAME
from lmcli.bundle.store import Bundle
from lmcli.errors import REBUILD, BundleError

_MOST_SOURCE = 64 * 2**10
_MOST_OUTPUT = 2**20
_FUEL, _LEAST_FUEL = 10_000_000, 10_000
"""Instructions: about a second. A dialogue of a hundred messages takes a few thousand."""
_MOST_WRITTEN = 2**30
"""Characters, before the output is looked at; each instruction may write a whole message."""
_MOST_INDENT = 16

# transformers marks what the assistant says with these tags; for a prompt they mean nothing.
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class Message(NamedTuple):
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatError(Exception):
    """A chat template refuses a dialogue, or fails at it."""


class ChatTemplate:
    """A chat template with the special tokens that it may spell (`bos_token`, ...)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, where: str) -> None:
        """Raises BundleError, naming `where`, for what is no template."""
        import minijinja

        if len(source.encode()) > _MOST_SOURCE:
            raise BundleError(
                f"{where}: a chat template of more than {_MOST_SOURCE // 2**10} kB", hint=REBUILD
            )
        self._failure = minijinja.TemplateError
        self._special_tokens = dict(special_tokens)
        self._environment = minijinja.Environment(
            fuel=_FUEL,
            trim_blocks=True,
            lstrip_blocks=True,
            filters={"tojson": _to_json},
            globals={"raise_exception": _refuse, "strftime_now": _now},
            debug=False,
        )
        try:
            self._environment.add_template("chat", _GENERATION.sub(_as_condition, source))
        except minijinja.TemplateError as error:
            raise BundleError(f"{where}: not a chat template: {_reason(error)}", hint=REBUILD) from error

    def render(self, messages: Sequence[Message]) -> str:
        """The dialogue as text, up to where the assistant is to speak. Raises ChatError."""
        longest = max((len(message.content) for message in messages), default=1)
        self._environment.fuel = max(_LEAST_FUEL, min(_FUEL, _MOST_WRITTEN // max(1, longest)))
        try:
            text: str = self._environment.render_template(
                "chat",
                messages=[message._asdict() for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except _RefusedError as error:
            raise ChatError(f"the chat template refuses it: {error}") from error
        except self._failure as error:
            raise ChatError(f"the chat template fails: {_reason(error)}") from error
        except (TypeError, ValueError) as error:  # of a function that it calls wrongly
            raise ChatError(f"the chat template fails: {error}") from error
        if len(text) > _MOST_OUTPUT:
            raise ChatError(f"the chat template makes {len(text)} characters of it, at most {_MOST_OUTPUT}")
        return text


def read_chat_template(bundle: Bundle) -> ChatTemplate | None:
    """The chat template of a bundle, if it has one. Raises BundleError if it cannot be used."""
    facts = bundle.manifest.causal
    assert facts is not None, "the manifest of a language model has causal"
    if CHAT_TEMPLATE_NAME not in bundle.manifest.files:
        return None
    path = bundle.file(CHAT_TEMPLATE_NAME)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {error}", hint=REBUILD) from error
    return ChatTemplate(source, facts.special_tokens, where=str(path))


class _RefusedError(Exception):
    """The template called `raise_exception`."""


def _reason(error: RuntimeError) -> str:
    return re.sub(r" \(in chat:(\d+)\)$", r", line \1", error.args[0])


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as transformers has it: that of Jinja escapes for HTML."""
    indent = None if indent is None else min(indent, _MOST_INDENT)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _as_condition(tag: re.Match[str]) -> str:
    """A tag that changes nothing but the white space around it, as `generation` does."""
    return f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}"
