from collections.abc import Sequence

import numpy as np
import pytest

from lmcli.engine.tokenizer import Ints, TokenizeError
from lmcli.tasks.chunks import balanced, chunks


def by_word(texts: Sequence[str]) -> list[Ints | TokenizeError]:
    """A token for each word, and two for the prompt and the end."""
    return [
        TokenizeError("too loud") if "!" in text else np.zeros(len(text.split()) + 2, np.int64)
        for text in texts
    ]


def texts(text: str, context_length: int) -> list[str]:
    found = chunks(text, by_word, context_length, "en")
    assert all(len(chunk.row) == len(chunk.text.split()) + 2 <= context_length for chunk in found)
    return [chunk.text for chunk in found]


def test_chunks_end_with_sentences() -> None:
    text = "One two three. Four five. Six seven\neight nine. Ten."
    assert texts(text, 8) == ["One two three. Four five.", "Six seven eight nine. Ten."]


def test_chunks_rather_end_with_paragraphs() -> None:
    even = "A b c d. E f g h. I j k l. M n o p."
    assert texts(even, 12) == ["A b c d. E f g h.", "I j k l. M n o p."]
    uneven = "A b c d. E f g h i j.\n\nK. L m n o p q r."
    assert texts(uneven, 12) == ["A b c d. E f g h i j.", "K. L m n o p q r."]


def test_a_sentence_that_does_not_fit_is_taken_apart() -> None:
    assert texts("One two three, four five six. Seven.", 6) == ["One two three,", "four five six. Seven."]


def test_chunks_are_of_about_equal_size() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(100))
    sizes = [len(chunk.split()) for chunk in texts(text, 122)]
    assert sizes == [100, 100, 100, 100, 100]


def test_chunks_become_smaller_until_uneven_sentences_fit() -> None:
    sentences = [" ".join(["Word", *["and"] * 6, "end."])] * 9
    assert texts(" ".join(sentences), 14) == sentences


def test_a_refused_text() -> None:
    with pytest.raises(TokenizeError, match="too loud"):
        chunks("One two three. Four five six! Seven.", by_word, 6, "en")


@pytest.mark.parametrize(
    ("sizes", "ends", "num_runs", "runs"),
    [
        ([1, 1, 1, 1], set(), 2, [(0, 2), (2, 4)]),
        ([1, 1, 1, 1], set(), 1, [(0, 4)]),
        ([8, 1, 1, 8], {1}, 2, [(0, 1), (1, 4)]),
        ([8, 1, 1, 8], {4}, 2, [(0, 2), (2, 4)]),
        ([8, 4, 4, 8], {1}, 2, [(0, 2), (2, 4)]),
        ([10, 1, 1], set(), 3, [(0, 1), (1, 3)]),
        ([10, 1, 1], set(), 9, [(0, 1), (1, 2), (2, 3)]),
        ([10], set(), 3, [(0, 1)]),
        ([1] * 9, set(), 3, [(0, 3), (3, 6), (6, 9)]),
    ],
)
def test_balanced(sizes: list[int], ends: set[int], num_runs: int, runs: list[tuple[int, int]]) -> None:
    assert list(balanced(sizes, ends, num_runs)) == runs
