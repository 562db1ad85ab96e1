import json
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lmcli.engine.tokenizer import TokenizeError, Tokenizer, Window
from lmcli.errors import BundleError
from tests import tiny

WORDS = ("good", "bad", "the", "film")
Build = Callable[[], tokenizers.Tokenizer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def load(folder: Path, built: tokenizers.Tokenizer, *, context_length: int = 8) -> Tokenizer:
    path = folder / "tokenizer.json"
    built.save(str(path))
    return Tokenizer(path, context_length=context_length)


def windows_of(tokenizer: Tokenizer, text: str) -> list[Window]:
    [found] = tokenizer.windows([text])
    assert isinstance(found, list)
    return found


def spans(windows: Sequence[Window], *, new: bool = True) -> list[tuple[int, int]]:
    """Where the tokens of all windows stand in the text, each once."""
    return [
        (int(start), int(end))
        for window in windows
        for start, end in window.offsets[~window.special][window.overlap if new else 0 :]
    ]


def words_of(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def test_a_short_text_is_one_window(folder: Path) -> None:
    [window] = windows_of(load(folder, tiny.word_level(WORDS)), "the film")
    assert (
        window.input_ids.tolist(),
        window.offsets.tolist(),
        window.special.tolist(),
        window.overlap,
    ) == ([2, 6, 7, 3], [[0, 0], [0, 3], [4, 8], [0, 0]], [True, False, False, True], 0)


def test_an_empty_text_is_one_window_of_special_tokens(folder: Path) -> None:
    [window] = windows_of(load(folder, tiny.word_level(WORDS)), "")
    assert window.input_ids.tolist() == [2, 3]


# A row of 8 holds 6 words, a quarter of them, 1, once more.
@pytest.mark.parametrize(
    ("num_words", "lengths"),
    [(5, [5]), (6, [6]), (7, [6, 2]), (11, [6, 6]), (12, [6, 6, 2]), (16, [6, 6, 6]), (17, [6, 6, 6, 2])],
)
def test_a_long_text_is_read_in_windows(folder: Path, num_words: int, lengths: list[int]) -> None:
    windows = windows_of(load(folder, tiny.word_level(WORDS)), "good " * num_words)
    assert [len(window.input_ids) - 2 for window in windows] == lengths
    assert [window.overlap for window in windows] == [0, *[1] * (len(lengths) - 1)]


@pytest.mark.parametrize("context_length", [4, 5, 8, 16])
@given(text=st.text(alphabet="ab  \n", max_size=120))
def test_no_token_is_cut_off(folder: Path, context_length: int, text: str) -> None:
    tokenizer = load(folder, tiny.word_level(["a", "b"]), context_length=context_length)
    windows = windows_of(tokenizer, text)
    assert spans(windows) == words_of(text)
    assert all(len(window.input_ids) <= context_length for window in windows)


@given(text=st.text(alphabet="ab ", min_size=60, max_size=120))
def test_overlap_is_what_the_window_before_ends_with(folder: Path, text: str) -> None:
    windows = windows_of(load(folder, tiny.word_level(["a", "b"]), context_length=14), text)
    for before, window in pairwise(windows):
        first = spans([window], new=False)[: window.overlap]
        assert len(first) == 3
        assert first == spans([before], new=False)[-3:]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: tiny.word_piece([*"[]", "SEP", "CLS", "PAD", "a"]), "a [SEP] [CLS][PAD]a"),
        (tiny.byte_level, "a [SEP] [CLS][PAD]a"),
        (tiny.byte_level, "[CLS]"),
        (lambda: tiny.metaspace([*"▁a[]SEPCLAD"]), "a [SEP] [CLS][PAD]a"),
    ],
    ids=["word piece", "byte level", "alone", "unigram"],
)
def test_control_tokens_in_the_text_are_text(folder: Path, build: Build, text: str) -> None:
    tokenizer = load(folder, build(), context_length=64)
    [window] = windows_of(tokenizer, text)
    tokens = [tokenizer.token(token_id) for token_id in window.input_ids.tolist()]
    assert [tokens[0], tokens[-1]] == ["[CLS]", "[SEP]"]
    assert not set(tokens[1:-1]) & (set(tiny.SPECIAL) - {"[UNK]"})
    assert window.special.tolist() == [True, *[False] * (len(tokens) - 2), True]


def test_a_very_long_text_keeps_its_offsets(folder: Path) -> None:
    text = "the  film\nbad " * 15_000
    windows = windows_of(load(folder, tiny.word_level(WORDS), context_length=512), text)
    assert spans(windows) == words_of(text)


def test_a_very_long_word_keeps_its_offsets(folder: Path) -> None:
    windows = windows_of(load(folder, tiny.byte_level(), context_length=512), "x" * 150_000)
    assert spans(windows) == [(index, index + 1) for index in range(150_000)]


def test_texts_of_many_megabytes_stay_in_order(folder: Path) -> None:
    tokenizer = load(folder, tiny.word_level(WORDS), context_length=512)
    texts = [f"{word} {' ' * 300_000}{word}" for word in WORDS * 2]
    found = [windows_of(tokenizer, text) for text in texts]
    together = tokenizer.windows(texts)
    assert [_ids(windows) for windows in together] == [_ids(windows) for windows in found]
    assert [_ids(windows) for windows in found[:4]] == [[2, 4, 3, 2, 3, 2, 3, 2, 3, 2, 4, 3]] + [
        [2, word, 3, 2, 3, 2, 3, 2, 3, 2, word, 3] for word in (5, 6, 7)
    ]


def _ids(windows: list[Window] | TokenizeError) -> list[int]:
    assert isinstance(windows, list)
    return [token_id for window in windows for token_id in window.input_ids.tolist()]


def test_a_refused_text_does_not_harm_its_neighbours(folder: Path) -> None:
    tokenizer = load(folder, tiny.word_level(WORDS, refuses_unknown=True))
    before, refused, after = tokenizer.windows(["good film", "good grief", "bad film"])
    assert isinstance(refused, TokenizeError)
    assert "refuses the text" in str(refused)
    assert [_ids(before), _ids(after)] == [[2, 4, 7, 3], [2, 5, 7, 3]]


class _StoppedError(BaseException):
    pass


def _stop(_number: int, _frame: object) -> None:
    raise _StoppedError


def test_a_signal_is_no_reason_to_refuse_a_text(folder: Path) -> None:
    tokenizer = load(folder, tiny.word_level(WORDS), context_length=512)
    text = "good " * 2_500_000  # more than a second of work
    before = signal.signal(signal.SIGUSR1, _stop)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(_StoppedError):
            tokenizer.windows([text])
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    [ids] = tokenizer.encode([text])
    assert not isinstance(ids, TokenizeError)
    found: list[int] = ids.tolist()
    return found


@pytest.mark.parametrize("context_length", [3, 4, 8, 16])
@given(text=st.text(alphabet="abc  \n", max_size=120))
def test_a_row_holds_all_of_a_text(folder: Path, context_length: int, text: str) -> None:
    built = tiny.word_level(["a", "b"])
    whole = built.encode(text).ids
    assert ids_of(load(folder, built, context_length=context_length), text) == whole


@pytest.mark.parametrize(
    ("before", "after"), [("", "[SEP]"), ("[CLS]", ""), ("", ""), ("[CLS] [CLS]", "[SEP]")]
)
def test_special_tokens_stand_at_the_ends_of_a_row(folder: Path, before: str, after: str) -> None:
    built = tiny.word_level(["a", "b"])
    built.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = load(folder, built, context_length=6)
    for text in ("", "a", "a b " * 20, f"a{' ' * 70_000}b", " " * 70_000):
        assert ids_of(tokenizer, text) == built.encode(text).ids


@pytest.mark.parametrize("length", [2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16])
def test_a_very_long_text_is_one_row(folder: Path, length: int) -> None:
    built = tiny.byte_level()
    tokenizer = load(folder, built, context_length=512)
    assert ids_of(tokenizer, "xy " * (length // 3)) == built.encode("xy " * (length // 3)).ids


def test_rows_are_in_order_and_a_refused_text_has_none(folder: Path) -> None:
    tokenizer = load(folder, tiny.word_level(WORDS, refuses_unknown=True))
    before, refused, after = tokenizer.encode(["good film", "good grief", "bad film " * 9])
    assert isinstance(refused, TokenizeError)
    assert not isinstance(before, TokenizeError)
    assert not isinstance(after, TokenizeError)
    assert [before.tolist(), after.tolist()] == [[2, 4, 7, 3], [2, *[5, 7] * 9, 3]]
    assert tokenizer.encode([]) == []


def test_control_tokens_in_a_row_are_text(folder: Path) -> None:
    tokenizer = load(folder, tiny.metaspace([*"▁a[]SEPCLAD"]), context_length=8)
    ids = ids_of(tokenizer, "a [SEP] [CLS][PAD]a")
    assert [ids[0], ids[-1]] == [2, 3]
    assert not {*ids[1:-1]} & {0, 2, 3}


def test_texts_of_token_ids(folder: Path) -> None:
    built = tiny.byte_level(["ab"])
    built.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = load(folder, built)
    rows = [built.encode(text).ids for text in ("ab cab", "", "é 漢\n")]
    assert tokenizer.decode([*rows, [], (2, 3, 0), [10**6], rows[2][:2]]) == [
        "ab cab",
        "",
        "é 漢\n",
        "",
        "",
        "",
        "\ufffd",
    ]
    assert tokenizer.decode([]) == []


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"\xff\xfe", b'{"version": "1.0"}'], ids=["missing", *"abcd"]
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokenizer(path, context_length=8)


@pytest.mark.parametrize("context_length", [-1, 0, 1, 2])
def test_a_context_without_room_for_text_is_refused(folder: Path, context_length: int) -> None:
    with pytest.raises(BundleError):
        load(folder, tiny.word_level(WORDS), context_length=context_length)


@pytest.mark.parametrize(
    ("build", "mark"),
    [
        (lambda: tiny.word_piece(["a", "##b"]), "##"),
        (lambda: tiny.word_level(["a"]), ""),
        (lambda: tiny.metaspace(["▁a"]), ""),
        (tiny.byte_level, ""),
    ],
    ids=["word piece", "word level", "metaspace", "byte level"],
)
def test_continuation_mark(folder: Path, build: Build, mark: str) -> None:
    assert load(folder, build()).continuation_mark == mark


def test_token_spells_an_id(folder: Path) -> None:
    tokenizer = load(folder, tiny.word_piece(["a", "##b"]))
    assert [tokenizer.token(token_id) for token_id in (2, 4, 5, 99)] == ["[CLS]", "a", "##b", ""]


@pytest.mark.parametrize("unknown_first", [True, False])
def test_control_tokens_become_the_unknown_token_whatever_its_id(folder: Path, unknown_first: bool) -> None:
    special = [("<unk>", 0.0), ("</s>", 0.0)] if unknown_first else [("</s>", 0.0), ("<unk>", 0.0)]
    built = tokenizers.Tokenizer(
        tokenizers.models.Unigram([*special, ("a", -1.0)], unk_id=0 if unknown_first else 1)
    )
    built.add_special_tokens(["</s>"])
    [window] = windows_of(load(folder, built, context_length=16), "a</s>a")
    tokens = ["a", "<unk>", "a"]
    assert [built.id_to_token(token_id) for token_id in window.input_ids.tolist()] == tokens


def test_a_panic_while_loading_is_a_broken_bundle(folder: Path) -> None:
    load(folder, tiny.word_level(["a"]), context_length=16)
    path = folder / "tokenizer.json"
    facts = json.loads(path.read_text())
    facts["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    path.write_text(json.dumps(facts))
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokenizer(path, context_length=16)
