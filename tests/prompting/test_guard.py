"""Whatever data holds, it stays text; and all other prompts are encoded as transformers does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from lmcli.engine.tokenizer import Guarded, Ints, Tokenizer
from lmcli.prompting.chat import ChatTemplate
from lmcli.prompting.dialogue import Dialogue, Frame, Prompt, Turn
from lmcli.prompting.guard import Guard, free_character
from lmcli.prompting.template import Template
from tests import tiny_causal
from tests.prompting import toy

PIECES = st.sampled_from(
    [
        *toy.SPECIAL,
        "<|im_",
        "start|>",
        "<",
        "|>",
        "s>",
        "<s",
        ">",
        "im_end",
        " ",
        "\n",
        "a",
        "é",
        "\ue000",
        "\ufdd0",
        "\0",
    ]
)
# Python counts the separators among white space, Rust does not.
LETTERS = st.characters(exclude_characters="\x1c\x1d\x1e\x1f", exclude_categories=["Cs"])
DATA = st.lists(PIECES | st.text(LETTERS, max_size=3), max_size=8).map("".join)
TEXT = Template.parse("{text}")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return toy.load_tokenizer(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def plain() -> tokenizers.Tokenizer:
    """As transformers encodes: control tokens are recognised wherever they stand."""
    return toy.tokenizer()


def controls(row: Ints) -> list[int]:
    return [token_id for token_id in row.tolist() if token_id < len(toy.SPECIAL)]


def only(found: Sequence[object]) -> Prompt:
    [prompt] = found
    assert isinstance(prompt, Prompt)
    return prompt


def ids(tokenizer: Tokenizer, marked: str, guard: str = "\ue000") -> list[int]:
    [row] = tokenizer.encode_prompts([Guarded(marked, guard)])
    assert not isinstance(row, Exception)
    found: list[int] = row.tolist()
    return found


@given(system=DATA, question=DATA, shot=DATA, answer=DATA)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_data_never_becomes_a_control_token(
    tokenizer: Tokenizer, system: str, question: str, shot: str, answer: str
) -> None:
    chat = ChatTemplate(
        tiny_causal.CHATML.replace("message['content']", "message['content'] | trim"), {}, where="toy"
    )
    shots = (Turn(TEXT, {"text": shot}, answer),)
    prompt = only(
        Frame(tokenizer, chat, system=system).prompts([Dialogue(shots, (), TEXT, {"text": question})])
    )
    assert controls(prompt.input_ids) == [0, 1] * 4 + [0]
    parts = [
        f"{role}\n{said.strip()}"
        for role, said in zip(
            ("system", "user", "assistant", "user"), (system, shot, answer, question), strict=True
        )
    ]
    assert (
        prompt.guarded.text
        == "".join(f"{tiny_causal.BEGIN}{part}{tiny_causal.END}\n" for part in parts)
        + f"{tiny_causal.BEGIN}assistant\n"
    )


@given(a=DATA, b=DATA, answer=DATA)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_data_never_completes_a_control_token(tokenizer: Tokenizer, a: str, b: str, answer: str) -> None:
    template = Template.parse("<{a}{b}><|{a}|>{b} <s>")
    shots = (Turn(template, {"a": a, "b": b}, answer),)
    prompt = only(
        Frame(tokenizer, None, before=(2,)).prompts([Dialogue(shots, (), template, {"a": b, "b": a})])
    )
    assert controls(prompt.input_ids) == [2, 2, 2]  # in front, and where the template says so


@given(
    st.lists(
        PIECES.filter(lambda piece: piece not in "\ue000\ufdd0") | st.text(LETTERS, max_size=5), max_size=12
    ).map("".join)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_prompts_are_encoded_as_transformers_does(
    tokenizer: Tokenizer, plain: tokenizers.Tokenizer, text: str
) -> None:
    guard = free_character([text])
    assert ids(tokenizer, text, guard) == plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("settings", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {}], ids=str)
@pytest.mark.parametrize("text", ["a <end> b", "a<end>b", "▁x <end>", "<end>", " <end>  <end> x"])
def test_how_a_token_takes_white_space_stays(tmp_path: Path, settings: dict[str, bool], text: str) -> None:
    """Only the first piece of a text has SentencePiece's space in front, whatever control tokens part it."""
    vocabulary = [("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in "abx")]
    made = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.add_special_tokens([tokenizers.AddedToken("<end>", normalized=False, **settings)])
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer(tmp_path / "tokenizer.json", context_length=64)
    assert ids(loaded, text) == made.encode(text, add_special_tokens=False).ids


def test_pieces_of_the_vocabulary_that_are_control_tokens_become_unknown(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), ("a", -1.0)], unk_id=0))
    made.add_special_tokens(["<unk>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer(tmp_path / "tokenizer.json", context_length=64)
    assert ids(loaded, "a<\ue000/s></s>") == [2, 0, 1]


def test_long_prompts_stay_whole(tokenizer: Tokenizer) -> None:
    text = "word " * (3 * toy.CONTEXT)
    assert ids(tokenizer, text) == toy.tokenizer().encode(text, add_special_tokens=False).ids


def test_a_tokenizer_without_control_tokens(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer(tmp_path / "tokenizer.json", context_length=8)
    assert (loaded.control_tokens, ids(loaded, "a")) == ((), [0])
    assert Guard(()).protect("<s>", "\ue000") == "<s>"


def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer) -> None:
    text = "naïve 🙂 <s> text"
    step = tokenizer.streamer()
    row = [*ids(tokenizer, text), 1]
    assert "".join(map(step, row)) == tokenizer.decode([row])[0] == "naïve 🙂  text"


@pytest.mark.parametrize(
    ("data", "marked"),
    [
        ("plain", "plain"),
        ("a <s> b", "a <|s> b"),
        (" s> ", " |s> "),
        ("x <", "x <|"),
        ("im_end", "|im_end"),
        ("<s<s>", "<s<|s>"),
        (" ", " "),
        ("", ""),
    ],
)
def test_where_guards_stand(data: str, marked: str) -> None:
    assert Guard(("<s>", "<#im_end#>")).protect(data, "|") == marked


def test_overlapping_spellings_are_all_guarded() -> None:
    assert "aba" not in Guard(("aba",)).protect("ababa", "|")


def test_the_guard_is_a_character_that_is_nowhere_else() -> None:
    assert free_character([]) == "\ue000"
    assert free_character(["\ue000", "a\ue001"]) == "\ue002"
    everything = "".join(
        map(chr, (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)))
    )
    with pytest.raises(ValueError, match="every character"):
        free_character([everything])
