from pathlib import Path

import pytest
import tokenizers

from lmcli.engine.tokenizer import Tokenizer
from lmcli.tasks.words import starts_words
from tests import tiny


def words_of(folder: Path, built: tokenizers.Tokenizer, text: str) -> list[str]:
    """The tokens of a text, each word's joined by `|`."""
    path = folder / "tokenizer.json"
    built.save(str(path))
    tokenizer = Tokenizer(path, context_length=512)
    [windows] = tokenizer.windows([text])
    assert isinstance(windows, list)
    [window] = windows
    ids, offsets = window.input_ids[~window.special], window.offsets[~window.special]
    words: list[str] = []
    for token_id, starts in zip(ids.tolist(), starts_words(text, ids, offsets, tokenizer), strict=True):
        token = tokenizer.token(token_id)
        if starts:
            words.append(token)
        else:
            words[-1] += f"|{token}"
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("playing games", ["play|##ing", "game|##s"]),
        ("game-play.", ["game", "-", "play", "."]),
        ("东京 games", ["东", "京", "game|##s"]),
        ("unknown games", ["[UNK]", "game|##s"]),
    ],
    ids=["pieces", "punctuation", "Han", "unknown"],
)
def test_word_piece_marks_what_goes_on(tmp_path: Path, text: str, words: list[str]) -> None:
    built = tiny.word_piece(["play", "##ing", "game", "##s", "-", ".", "东", "京"])
    assert words_of(tmp_path, built, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("playing games", ["▁play|ing", "▁game|s"]),
        ("play,play", ["▁play|,|play"]),
        ("a\nplay", ["▁a", "\n", "play"]),
        ("a  play", ["▁a", "▁", "▁play"]),
        ("东京s", ["▁", "东", "京|s"]),
        ("カタ", ["▁", "カ", "タ"]),
    ],
    ids=["pieces", "punctuation stays", "newline", "spaces", "Han", "Katakana"],
)
def test_other_words_start_behind_white_space(tmp_path: Path, text: str, words: list[str]) -> None:
    pieces = [*"▁asカタ东京,\n", "▁a", "▁play", "play", "ing", "▁game"]
    assert words_of(tmp_path, tiny.metaspace(pieces), text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("ab cd", ["a|b", "Ġ", "c|d"], id="ascii"),
        pytest.param("né d", ["n|Ã|©", "Ġ", "d"], id="accent"),
        pytest.param("a 😀", ["a", "Ġ", "ð|Ł|ĺ|Ģ"], id="emoji"),
        pytest.param("京a", ["ä|º|¬|a"], id="Han"),
    ],
)
def test_the_bytes_of_a_character_are_one_word(tmp_path: Path, text: str, words: list[str]) -> None:
    assert words_of(tmp_path, tiny.byte_level(), text) == words
