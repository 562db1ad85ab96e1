"""Which tokens start a word: the ground of every strategy but `simple`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lmcli.engine.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's


def starts_words(text: str, input_ids: Ints, offsets: Ints, tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """For each token whether it starts a word. input_ids: (tokens,), offsets: (tokens, 2).

    Vocabularies that mark continuations (WordPiece's `##`) tell it themselves. For the others a word starts
    behind white space, as in transformers; a character of a script without spaces is a word of its own.
    """
    if mark := tokenizer.continuation_mark:
        starts = [not tokenizer.token(token_id).startswith(mark) for token_id in input_ids.tolist()]
    else:
        starts = [_behind_space(text, start) for start, _ in offsets.tolist()]
        # A byte-level vocabulary writes one character as several tokens, of which the first starts a word;
        # a bare space mark shares its place with the character behind it.
        for index in range(1, len(starts)):
            same_place = (offsets[index] == offsets[index - 1]).all()
            if same_place and tokenizer.token(int(input_ids[index - 1])) != _SPACE_MARK:
                starts[index] = False
    return np.array(starts, np.bool_)


def _behind_space(text: str, start: int) -> bool:
    """A token starts a word if white space stands before it or is its first character (`▁Paris`)."""
    return (
        start == 0
        or any(char.isspace() for char in text[start - 1 : start + 1])
        or _unspaced(text[start : start + 1])
    )


def _unspaced(char: str) -> bool:
    """Han, Hiragana and Katakana: scripts that put no spaces between words."""
    return (
        "\u3040" <= char <= "\u30ff" or "\u3400" <= char <= "\u9fff" or "\U00020000" <= char <= "\U0003ffff"
    )
