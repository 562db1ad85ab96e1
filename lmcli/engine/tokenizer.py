"""`Tokenizer`: texts to the rows of a graph, and back.

A long text becomes overlapping windows, or one long row: nothing is cut off.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import tokenizers

from lmcli.errors import REBUILD, BundleError

# An Encoding costs about a hundred bytes a token, and nothing interrupts the Rust side, so texts are encoded
# in portions of a fraction of a second; longer texts than a piece are taken apart at white space first.
_PORTION_CHARS = 1 << 18
_PIECE_CHARS = 1 << 16

Ints = npt.NDArray[np.int64]

T = TypeVar("T")

_UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")


class TokenizeError(Exception):
    """The tokenizer refuses a text."""


@dataclass(frozen=True, slots=True)
class Window:
    """One row of a graph: a text, or a part of a long one."""

    input_ids: Ints
    """(sequence,), with the special tokens."""
    offsets: Ints
    """(sequence, 2): start and end of each token in the text, in characters; special tokens have (0, 0)."""
    special: npt.NDArray[np.bool_]
    """(sequence,): which tokens are special and stand for no text."""
    overlap: int
    """How many of its leading (not special) tokens the window before it holds as well."""


class Guarded(NamedTuple):
    """A prompt: what is spelled like a control token is one, unless a guard stands in the spelling."""

    marked: str
    """The text with its guards."""
    guard: str
    """A character that the text itself has nowhere."""

    @property
    def text(self) -> str:
        """What the model sees."""
        return self.marked.replace(self.guard, "")


class _Aliases(NamedTuple):
    """Other names of control tokens, for prompts on their way through the tokenizer."""

    spelling: re.Pattern[str]
    names: dict[str, str]
    """By the spelling of the control token."""
    mark: str
    """How the name of one begins that takes no white space from the text before it."""
    token_ids: Ints
    """From each id of the tokenizer to that of the model."""


class Tokenizer:
    """A `tokenizer.json` with the context length of its model."""

    def __init__(self, path: Path, *, context_length: int) -> None:
        """Load the tokenizer. Raises BundleError if it is broken."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except BaseException as error:
            if not is_refusal(error):
                raise
            raise BundleError(f"{path}: not a tokenizer: {error}", hint=REBUILD) from error
        # Text is data: what looks like a control token in it must not become one. Some vocabularies hold
        # control tokens as pieces, too; those become the unknown token.
        self._tokenizer.encode_special_tokens = True
        known = (self._tokenizer.token_to_id(token) for token in _UNKNOWN)
        self.unknown_id: int | None = next((token_id for token_id in known if token_id is not None), None)
        """What stands for all that the vocabulary lacks."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        controls = {token_id for token_id, token in added if token.special} - {self.unknown_id}
        self._controls = np.array(sorted(controls), np.int64)
        self._tokenizer.no_padding()
        self.context_length = context_length
        num_special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if context_length <= num_special:
            raise BundleError(
                f"{path}: a context of {context_length} tokens has no room for text",
                hint=REBUILD,
            )
        self.stride = (context_length - num_special) // 4
        self._tokenizer.enable_truncation(context_length, stride=self.stride)
        self.continuation_mark: str = getattr(self._tokenizer.model, "continuing_subword_prefix", None) or ""
        """What tokens inside a word begin with (WordPiece: `##`); empty where tokens do not tell."""

    def token(self, token_id: int) -> str:
        """The token of an id, as the vocabulary spells it."""
        return self._tokenizer.id_to_token(token_id) or ""

    def windows(self, texts: Sequence[str]) -> list[list[Window] | TokenizeError]:
        """The windows of each text, or why it has none, in order."""
        results: list[list[Window] | TokenizeError] = [[] for _ in texts]
        for portion in _portions(
            [piece for index, text in enumerate(texts) for piece in _pieces(index, text)]
        ):
            encoded = self._try(portion, self._encode)
            for piece, windows in zip(portion, encoded, strict=True):
                found = results[piece.text]
                if isinstance(windows, TokenizeError):
                    results[piece.text] = windows
                elif isinstance(found, list):
                    found.extend(windows)
        return results

    def encode(self, texts: Sequence[str]) -> list[Ints | TokenizeError]:
        """All token ids of each text in one row, with the special tokens, or why it has none, in order."""
        return [found if isinstance(found, TokenizeError) else _join(found) for found in self.windows(texts)]

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """How control tokens are spelled. No text becomes one, and of prompts only what is meant to."""
        return tuple(self._aliases.names)

    def encode_prompts(self, prompts: Sequence[Guarded]) -> list[Ints | TokenizeError]:
        """All token ids of each prompt in one row, without more special tokens, or why it has none.

        Prompts are cut where a control token begins, as the tokenizer does it: examples that come again in
        every prompt are encoded once.
        """
        cut = [self._cut(prompt) for prompt in prompts]
        pieces = [_Piece(0, 0, part) for part in dict.fromkeys(part for parts in cut for part in parts)]
        rows = (row for portion in _portions(pieces) for row in self._try(portion, self._rows))
        found = {piece.content: row for piece, row in zip(pieces, rows, strict=True)}
        return [_joined([found[part] for part in parts]) for parts in cut]

    def streamer(self) -> Callable[[int], str]:
        """From token to token to the text that each one adds: none while a character is incomplete."""
        stream = tokenizers.decoders.DecodeStream(skip_special_tokens=True)
        return lambda token_id: stream.step(self._tokenizer, token_id) or ""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of token ids, without the special tokens."""
        texts: list[str] = self._tokenizer.decode_batch(rows, skip_special_tokens=True)
        return texts

    def _encode(self, pieces: Sequence[_Piece]) -> list[list[Window]]:
        encodings = self._tokenizer.encode_batch([piece.content for piece in pieces])
        return [
            list(self._windows(encoding, piece.start))
            for piece, encoding in zip(pieces, encodings, strict=True)
        ]

    def _try(
        self, pieces: Sequence[_Piece], encode: Callable[[Sequence[_Piece]], list[T]]
    ) -> Iterator[T | TokenizeError]:
        """Encode pieces; one that is refused must not harm the others."""
        try:
            yield from encode(pieces)
        except BaseException as error:
            if not is_refusal(error):
                raise
            if len(pieces) == 1:
                yield TokenizeError(f"the tokenizer refuses the text: {error}")
                return
            for piece in pieces:
                yield from self._try([piece], encode)

    def _windows(self, encoding: tokenizers.Encoding, start: int) -> Iterator[Window]:
        for index, part in enumerate([encoding, *encoding.overflowing]):
            input_ids = np.array(part.ids, np.int64)
            special = np.array(part.special_tokens_mask, np.bool_)
            offsets = np.array(part.offsets, np.int64).reshape(-1, 2)
            offsets[~special] += start
            self._disarm(input_ids, ~special)
            yield Window(input_ids, offsets, special, self.stride if index else 0)

    def _disarm(self, input_ids: Ints, is_text: npt.NDArray[np.bool_] | bool = True) -> None:
        """Make unknown tokens of the control tokens that text has become."""
        controls = is_text & np.isin(input_ids, self._controls)
        if controls.any():
            if self.unknown_id is None:
                raise ValueError("it holds a control token")
            input_ids[controls] = self.unknown_id

    def _cut(self, prompt: Guarded) -> list[str]:
        """The parts of a prompt, with other names in the place of control tokens, and without guards."""
        aliases = self._aliases
        marked = aliases.spelling.sub(lambda found: aliases.names[found[0]], prompt.marked)
        first, *others = marked.replace(prompt.guard, "").split(aliases.mark)
        return [first, *(aliases.mark + other for other in others)]

    def _rows(self, pieces: Sequence[_Piece]) -> list[Ints]:
        encodings = self._tokenizer.encode_batch_fast(
            [piece.content for piece in pieces], add_special_tokens=False
        )
        return [self._row(encoding) for encoding in encodings]

    def _row(self, encoding: tokenizers.Encoding) -> Ints:
        """(sequence,): all parts that truncation has made, in the ids of the model."""
        parts = [encoding.ids, *(part.ids[self.stride :] for part in encoding.overflowing)]
        row = np.concatenate([np.array(ids, np.int64) for ids in parts])
        self._disarm(row)
        ids: Ints = self._aliases.token_ids[row]
        return ids

    @cached_property
    def _aliases(self) -> _Aliases:
        """Gives each control token another name that it is recognised by, as it is not by its own.

        The names are ordinary added tokens with a secret in them, so no text can hold one. Their ids are
        beyond those of the model.
        """
        secret = secrets.token_hex(8)
        mark, other_mark = f"\ufdd0{secret}", f"\ufdd2{secret}"
        controls = {
            token.content: (token_id, token)
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special and len(token.content) > 1  # a guard must have room inside
        }
        names = {
            spelling: f"{other_mark if token.lstrip else mark}{token_id}\ufdd1"
            for spelling, (token_id, token) in controls.items()
        }
        self._tokenizer.add_tokens(
            [
                tokenizers.AddedToken(
                    names[spelling],
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=False,
                )
                for spelling, (_, token) in controls.items()
            ]
        )
        token_ids = np.arange(max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1)
        for spelling, (token_id, _) in controls.items():
            token_ids[self._tokenizer.token_to_id(names[spelling])] = token_id
        # The longest spelling counts where one begins with another; without any the pattern matches nothing.
        longest_first = sorted(controls.items(), key=lambda item: -len(item[0]))
        patterns = [_pattern(spelling, token) for spelling, (_, token) in longest_first]
        return _Aliases(re.compile("|".join(patterns) or r"(?!)"), names, mark, token_ids)


def _joined(rows: Sequence[Ints | TokenizeError]) -> Ints | TokenizeError:
    """The parts of a prompt as one row, unless one is refused. (sequence,)"""
    good = []
    for row in rows:
        if isinstance(row, TokenizeError):
            return row
        good.append(row)
    return np.concatenate(good)


def _pattern(spelling: str, token: tokenizers.AddedToken) -> str:
    """Where a control token is recognised."""
    return rf"(?<!\w){re.escape(spelling)}(?!\w)" if token.single_word else re.escape(spelling)


def _join(windows: Sequence[Window]) -> Ints:
    """The windows of a text as one row: each token once, special tokens at the ends only. (sequence,)"""
    # White space alone, as a long text may have between its pieces, can be a window without tokens.
    windows = [window for window in windows if not window.special.all()] or windows[:1]
    if len(windows) == 1:
        return windows[0].input_ids
    first, last = windows[0], windows[-1]
    start, end = first.special.argmin(), last.special[::-1].argmin()
    inner = [window.input_ids[~window.special][window.overlap :] for window in windows]
    return np.concatenate([first.input_ids[:start], *inner, last.input_ids[len(last.input_ids) - end :]])


def is_refusal(error: BaseException) -> bool:
    """Whether the Rust side refuses its input: a panic of it is no Exception, but neither is a signal."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


class _Piece(NamedTuple):
    """A text, or a part of a long one."""

    text: int
    """Which text."""
    start: int
    """Where in it."""
    content: str


def _portions(pieces: Sequence[_Piece]) -> Iterator[Sequence[_Piece]]:
    """Runs of pieces that together stay below the portion's size."""
    first = size = 0
    for index, piece in enumerate(pieces):
        if index > first and size + len(piece.content) > _PORTION_CHARS:
            yield pieces[first:index]
            first, size = index, 0
        size += len(piece.content)
    if first < len(pieces):
        yield pieces[first:]


def _pieces(index: int, text: str) -> Iterator[_Piece]:
    """Cut a text before white space where there is any."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        end = start + _PIECE_CHARS
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > start else end
        yield _Piece(index, start, text[start:end])
        start = end
    yield _Piece(index, start, text[start:])
