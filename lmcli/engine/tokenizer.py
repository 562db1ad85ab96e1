"""`Tokenizer`: texts to the rows of a graph. A long text becomes overlapping windows; nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from lmcli.errors import REBUILD, BundleError

# An Encoding costs about a hundred bytes a token, so texts are encoded in portions; longer texts than a piece
# are taken apart at white space first.
_PORTION_CHARS = 1 << 20
_PIECE_CHARS = 1 << 16


_UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")


class TokenizeError(Exception):
    """The tokenizer refuses a text."""


@dataclass(frozen=True, slots=True)
class Window:
    """One row of a graph: a text, or a part of a long one."""

    input_ids: npt.NDArray[np.int64]
    """(sequence,), with the special tokens."""
    offsets: npt.NDArray[np.int64]
    """(sequence, 2): start and end of each token in the text, in characters; special tokens have (0, 0)."""
    special: npt.NDArray[np.bool_]
    """(sequence,): which tokens are special and stand for no text."""
    overlap: int
    """How many of its leading (not special) tokens the window before it holds as well."""


class Tokenizer:
    """A `tokenizer.json` with the context length of its model."""

    def __init__(self, path: Path, *, context_length: int) -> None:
        """Load the tokenizer. Raises BundleError if it is broken."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain exceptions
            raise BundleError(f"{path}: not a tokenizer: {error}", hint=REBUILD) from error
        # Text is data: what looks like a control token in it must not become one. Some vocabularies hold
        # control tokens as pieces, too; those become the unknown token.
        self._tokenizer.encode_special_tokens = True
        self._unknown = next(filter(None, map(self._tokenizer.token_to_id, _UNKNOWN)), None)
        added = self._tokenizer.get_added_tokens_decoder().items()
        controls = {token_id for token_id, token in added if token.special} - {self._unknown}
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
        results: list[list[Window] | TokenizeError] = []
        for portion in _portions(texts):
            results.extend(self._encode(portion))
        return results

    def _encode(self, texts: Sequence[str]) -> Iterator[list[Window] | TokenizeError]:
        pieces = [_pieces(text) for text in texts]
        try:
            encodings = iter(self._encode_batch([piece for parts in pieces for _, piece in parts]))
        except TokenizeError as error:
            if len(texts) == 1:
                yield error
                return
            for text in texts:  # one of them is to blame: the others must not suffer
                yield from self._encode([text])
            return
        for starts in pieces:
            yield [window for start, _ in starts for window in self._windows(next(encodings), start)]

    def _windows(self, encoding: tokenizers.Encoding, start: int) -> Iterator[Window]:
        for index, part in enumerate([encoding, *encoding.overflowing]):
            input_ids = np.array(part.ids, np.int64)
            special = np.array(part.special_tokens_mask, np.bool_)
            offsets = np.array(part.offsets, np.int64).reshape(-1, 2)
            offsets[~special] += start
            if self._unknown is not None:
                input_ids[~special & np.isin(input_ids, self._controls)] = self._unknown
            yield Window(input_ids, offsets, special, self.stride if index else 0)

    def _encode_batch(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        try:
            return list(self._tokenizer.encode_batch(texts))
        except BaseException as error:
            # A panic of the Rust side is no Exception; a signal that ends the run is none either.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise TokenizeError(f"the tokenizer refuses the text: {error}") from error


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts that together stay below the portion's size, or hold a single text."""
    first = size = 0
    for index, text in enumerate(texts):
        if index > first and size + len(text) > _PORTION_CHARS:
            yield texts[first:index]
            first, size = index, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]


def _pieces(text: str) -> list[tuple[int, str]]:
    """A text as (start, piece) pairs, cut before white space where there is any."""
    pieces = []
    start = 0
    while len(text) - start > _PIECE_CHARS:
        end = start + _PIECE_CHARS
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > start else end
        pieces.append((start, text[start:end]))
        start = end
    return [*pieces, (start, text[start:])]
