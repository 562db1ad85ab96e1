# ruff: noqa: RUF001 (the punctuation of other scripts)

from collections.abc import Set

import pytest

from lmcli.tasks.degenerate import (
    copies,
    is_longer,
    misses_length,
    misses_script,
    repeats_itself,
    words,
)

ENGLISH = "What It Is: the meeting of the city council about the new bridge over the river."
FRENCH = "Ce que c'est : la réunion du conseil municipal au sujet du nouveau pont sur la rivière."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("«Ça va?» -- 3.5 %", ["ça", "va", "3.5"]),
        ("don't e-mail", ["don't", "e-mail"]),
        ("我爱你。 OK", ["我", "爱", "你", "ok"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("----- *** …", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("source", "output", "is_so"),
    [
        (ENGLISH, FRENCH, False),
        (ENGLISH, "(applaudissements) (applaudissements) (applaudissements) (applaudissements)", True),
        (ENGLISH, "(applaudissements) (applaudissements) (applaudissements)", False),
        (ENGLISH, "La ville de la ville de la ville de la ville de la ville", True),
        (ENGLISH, "C'est le pont de la ville. " * 5, True),
        (ENGLISH, "je ne sais pas, je ne sais pas, je ne sais pas, je ne sais pas", True),
        (ENGLISH, "我们的我们的我们的我们的", True),
        (ENGLISH, "这是关于新桥的市议会会议。", False),
        (ENGLISH, "Le conseil municipal a évévévévévévé un pont", True),
        (ENGLISH, "Le conseil municipal a dit hmmmmm", False),
        (ENGLISH, "www.1000000.com", False),
        ("Hahaha, the council!", "Hahahahahaha, le conseil !", False),
        ("ha ha ha", "ha ha ha ha", False),
        ("Hahahaha!", "哈哈哈哈", False),
        ("no no no no no", "non non non non non", False),
        ("no no no no", "non " * 40, True),
        ("very, very, very good", "sehr, sehr, sehr gut", False),
        ("0 0 0 0 1 0 0 0 0", "0 0 0 0 1 0 0 0 0", False),
        ("", "", False),
        ("A word.", "", False),
    ],
)
def test_repetition(source: str, output: str, is_so: bool) -> None:
    assert repeats_itself(words(source), words(output)) is is_so


FILLING = [" ".join(f"{letter}{number}" for letter in "abcdefghijklmnopqrstuvwxyz") for number in range(3)]
PHRASE = "it is important to note that the committee has not yet decided "


@pytest.mark.parametrize(
    ("source", "output", "is_so"),
    [
        (ENGLISH, PHRASE * 3, True),
        (ENGLISH, PHRASE * 2, False),
        (PHRASE * 3, PHRASE * 3, False),
        (PHRASE * 3, PHRASE * 9, True),
        (ENGLISH, " ".join(f"{other} {PHRASE}" for other in FILLING), True),
        (ENGLISH, " ".join(f"{other} {PHRASE}" for other in FILLING[:2]), False),
    ],
    ids=[
        "three times",
        "twice",
        "as the source does",
        "more than the source does",
        "among others",
        "twice among others",
    ],
)
def test_a_long_phrase_that_comes_again_is_a_repetition(source: str, output: str, is_so: bool) -> None:
    assert repeats_itself(words(source), words(output)) is is_so


@pytest.mark.parametrize(
    ("source", "output", "is_so"),
    [
        ("The cat sat down.", "the cat  sat down", True),
        ("The cat sat down.", "The cat sat up.", False),
        ("Marie Curie, Paris", "Marie Curie, Paris", False),
        ("我爱你们", "我爱你们", True),
        ("", "", False),
    ],
)
def test_copy(source: str, output: str, is_so: bool) -> None:
    assert copies(words(source), words(output)) is is_so


TEN = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("source", "output", "is_so"),
    [
        (TEN, "un deux", False),
        (TEN, "un", True),
        (TEN, "", True),
        (TEN, "mot " * 60, False),
        (TEN, "mot " * 61, True),
        ("one two three", "", False),
        ("one two three", "mot " * 99, False),
        ("这是关于新桥的市议会会议，下周一在市政厅举行。", "The city council meets on Monday.", False),
        (TEN, "字" * 20, False),
        (TEN, "字" * 121, True),
    ],
)
def test_length(source: str, output: str, is_so: bool) -> None:
    assert misses_length(words(source), words(output)) is is_so


@pytest.mark.parametrize(
    ("source", "output", "is_so"), [("a b c", "a b", False), ("a b", "a b", False), ("a b", "a b c", True)]
)
def test_longer(source: str, output: str, is_so: bool) -> None:
    assert is_longer(words(source), words(output)) is is_so


LATIN, CYRILLIC, JAPANESE = {"LATIN"}, {"CYRILLIC"}, {"CJK", "HIRAGANA", "KATAKANA"}


@pytest.mark.parametrize(
    ("source", "output", "scripts", "is_so"),
    [
        ("Where is the station?", "Где находится вокзал?", CYRILLIC, False),
        ("Where is the station?", "Gde nahoditsja vokzal?", CYRILLIC, True),
        ("Where is the station?", "Où est la gare centrale ?", LATIN, False),
        ("Microsoft Windows Server is here", "Microsoft Windows Server здесь", CYRILLIC, False),
        ("Yes", "Oui, oui", CYRILLIC, False),
        ("Where is the station?", "駅はどこにありますか。", JAPANESE, False),
        ("Where is the station?", "Where is station, please?", JAPANESE, False),
        ("Where is the station?", "역은 어디에 있습니까, 여기 근처에", JAPANESE, True),
        ("1 2 3", "1 2 3 4 5 6 7 8 9 10 11 12", CYRILLIC, False),
    ],
)
def test_script(source: str, output: str, scripts: Set[str], is_so: bool) -> None:
    assert misses_script(words(source), words(output), scripts) is is_so
