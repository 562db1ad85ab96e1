"""Signs that an output is no honest answer to its source: `FLAGS`, and a pure function for each.

They compare `words`. Those of a script that puts no spaces between them are its characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache

from lmcli.tasks.sentences import UNSPACED

UNKNOWN = "unknown"
"""Of an output, or its source, that holds what the model's vocabulary lacks: tokens tell, not words."""
FLAGS = ("repetition", "copy", "length", "script", UNKNOWN)

Words = Sequence[str]

_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_SIX_TIMES, _THREE_TIMES = (re.compile(rf"([^\W\d]{{1,4}}?)\1{{{more}}}") for more in (5, 2))
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»‹›“”„‘’‚…–—·•¡¿。、，．！？；：（）「」『』《》・،؛؟।॥"  # noqa: RUF001


def words(text: str) -> list[str]:
    """The words of a text, without case and without punctuation around them."""
    found = (word.strip(_PUNCTUATION) for word in _WORD.findall(text.casefold()))
    return [word for word in found if word]


def repeats_itself(source: Words, output: Words) -> bool:
    """Whether the output loops: any of

    - one to four words at least four times in a row,
    - one to four letters of a word at least six times in a row,
    - less than half of all trigrams different, in an output of at least 24 words;
    - the same twelve words three times.

    A source that repeats itself may have an output that does: it takes twice the repetitions of the source,
    half of its share of trigrams, and a phrase more often than any is in the source.
    """
    run = _longest_run(output)
    # In "Hahaha" it is the letters that repeat, and in another script they may be words.
    if run >= 4 and run >= 2 * max(_longest_run(source), _longest_run("".join(source))):
        return True
    if _SIX_TIMES.search(" ".join(output)) and not _THREE_TIMES.search(" ".join(source)):
        return True
    if _variety(output) < 0.5 * _variety(source):
        return True
    phrases = _most_frequent_phrase(output)
    return phrases >= 3 and phrases > _most_frequent_phrase(source)


def copies(source: Words, output: Words) -> bool:
    """Whether the output is the source, of four words or more."""
    return len(source) >= 4 and source == output


def misses_length(source: Words, output: Words) -> bool:
    """Whether the output has more than four times the words of its source and twenty, or less than a fifth.

    Only for sources of at least ten words.
    """
    before, after = _size(source), _size(output)
    return before >= 10 and not before / 5 <= after <= 4 * before + 20


def is_longer(source: Words, output: Words) -> bool:
    """Whether the output has more words than its source."""
    return _size(output) > _size(source)


def misses_script(source: Words, output: Words, scripts: Set[str]) -> bool:
    """Whether less than half of the output's letters are of these scripts, words of the source aside.

    Scripts are named as in `languages.scripts`. Only for outputs with at least ten such letters.
    """
    names = set(source)
    letters = [char for word in output if word not in names for char in word if char.isalpha()]
    return len(letters) >= 10 and 2 * sum(_script(letter) in scripts for letter in letters) < len(letters)


def _longest_run(words: Words) -> int:
    """How often the same one to four words, or characters, follow one another at most."""
    longest = min(1, len(words))
    for size in range(1, 5):
        same = 0
        for word, before in zip(words[size:], words, strict=False):
            same = same + 1 if word == before else 0
            longest = max(longest, same // size + 1) if same else longest
    return longest


def _variety(words: Words) -> float:
    """The share of different ones among all trigrams; 1 for a short text."""
    if len(words) < 24:
        return 1.0
    trigrams = list(_ngrams(words, 3))
    return len(set(trigrams)) / len(trigrams)


def _most_frequent_phrase(words: Words) -> int:
    """How often the same twelve words come at most; of words without spaces the same 24 characters."""
    size = 24 if _size(words) <= 0.75 * len(words) else 12
    return max(Counter(_ngrams(words, size)).values(), default=0)


def _ngrams(words: Words, size: int) -> Iterator[tuple[str, ...]]:
    """So many words in a row, from each place on."""
    return zip(*(words[start:] for start in range(size)), strict=False)


def _size(words: Words) -> float:
    """How many words, where about two characters of a script without spaces are one."""
    return sum(0.5 if len(word) == 1 and _UNSPACED.match(word) else 1 for word in words)


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    """The script of a letter: LATIN, CYRILLIC, CJK, the first word of its Unicode name."""
    return unicodedata.name(letter, "").partition(" ")[0]
