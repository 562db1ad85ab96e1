# ruff: noqa: RUF001 (the punctuation of other scripts)

import random

import pytest

from lmcli.tasks.sentences import halves, needs_model, pieces, sentences, spaced, unwrap


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("One. Two.", "en", ["One.", " ", "Two."]),
        ("  One.\tTwo.  \n", "en", ["  ", "One.", "\t", "Two.", "  ", "\n"]),
        ("Mr. Smith left. He ran.", "en", ["Mr. Smith left.", " ", "He ran."]),
        ("One\ntwo.\n\nThree", "en", ["One", "\n", "two.", "\n\n", "Three"]),
        ("你好。世界！", "zh", ["你好。", "世界！"]),
        ("One. Two.\nThree.", None, ["One. Two.", "\n", "Three."]),
        ("Ah\u2028so. Then", "en", ["Ah\u2028so.", " ", "Then"]),
        ("   ", "en", ["   "]),
        ("", "en", []),
    ],
)
def test_pieces(text: str, language: str | None, found: list[str]) -> None:
    assert pieces(text, language) == found


@pytest.mark.parametrize("language", ["en", "fr", "de", "ru", "zh", "hi", "am", "xx", None])
def test_pieces_joined_are_the_text(language: str | None) -> None:
    chance = random.Random(7)
    alphabet = "ab AJ.!?。\n\r\t\"'()“”«»\u2028\u0085\xa0\ufeff😀é\u0301\0…1٣Мр।"
    for _ in range(500):
        text = "".join(chance.choices(alphabet, k=30))
        found = pieces(text, language)
        assert "".join(found) == text
        assert all(piece == piece.strip() or not piece.strip() for piece in found)


def test_white_space_at_which_the_library_panics_is_harmless() -> None:
    assert sentences("J\xa0. Who? A\u2028.", "en") == ["J\xa0. ", "Who? ", "A\u2028."]


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("one\ntwo", "one two"),
        ("one  \n  two\nthree", "one two three"),
        ("one\n\ntwo\nthree\n", "one\n\ntwo three\n"),
        ("one\n \ntwo", "one\n \ntwo"),
        ("\none", "\none"),
    ],
)
def test_unwrap(text: str, flat: str) -> None:
    assert unwrap(text) == flat


@pytest.mark.parametrize(
    "piece",
    [
        "Hello",
        "5 apples",
        "and/or",
        "See https://example.org for more",
        "a.b",
        "Привет",
        "你",
        "mail me: a@b.org",
    ],
)
def test_words_need_a_model(piece: str) -> None:
    assert needs_model(piece)


@pytest.mark.parametrize(
    "piece",
    [
        "",
        " \t",
        "12:30",
        "-----",
        "§ 3, 4.",
        "😀👍",
        "https://example.org/a?b=c",
        "HTTP://EXAMPLE.ORG",
        "www.example.org",
        "mailto:a@b.org",
        "first.last@example.org",
        "/etc/hosts",
        "~/notes.txt",
        "../up/there",
        "C:\\Users\\me",
        "src/main.py",
        "\N{COMBINING ACUTE ACCENT}",
    ],
)
def test_what_has_no_words_needs_none(piece: str) -> None:
    assert not needs_model(piece)


@pytest.mark.parametrize(
    ("piece", "found"),
    [
        ("when it rains, we stay in", ["when it rains,", " ", "we stay in"]),
        ("so, this is one long clause, that ends", ["so, this is one long clause,", " ", "that ends"]),
        ("a, then no comma anywhere near the middle", ["a, then no comma", " ", "anywhere near the middle"]),
        ("aaaaaa b", ["aaaaaa", " ", "b"]),
        ("abcdef", ["abc", "def"]),
        ("今天下雨，我们在家", ["今天下雨，", "我们在家"]),
        ("e\u0301e\u0301", ["e\u0301", "e\u0301"]),
        ("ae\u0301e", ["a", "e\u0301e"]),
        ("你，", ["你", "，"]),
        ("ab", ["a", "b"]),
        ("one \t two", ["one", " \t ", "two"]),
        ("e" + "\u0301" * 5, ["e", "\u0301" * 5]),
    ],
)
def test_halves(piece: str, found: list[str]) -> None:
    assert halves(piece) == found


def test_halves_are_always_smaller_and_lose_nothing() -> None:
    chance = random.Random(3)
    for _ in range(2000):
        piece = "".join(chance.choices("ab ,.，。\u0301\n", k=chance.randint(2, 12))).strip()
        if len(piece) > 1:
            found = halves(piece)
            assert "".join(found) == piece
            assert max(map(len, found)) < len(piece)


@pytest.mark.parametrize(
    ("parts", "apart"),
    [
        (["你好。", "世界！"], ["你好。", " ", "世界！"]),
        (["今天", "下雨"], ["今天", " ", "下雨"]),
        (["One.", " ", "Two."], ["One.", " ", "Two."]),
        (["inter", "nation"], ["inter", "nation"]),
        (["a,", "b"], ["a,", " ", "b"]),
        ([], []),
    ],
)
def test_spaced(parts: list[str], apart: list[str]) -> None:
    assert spaced(parts) == apart
