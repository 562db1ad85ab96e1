from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from lmcli.bundle.manifest import Language
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.engine.tokenizer import Ints, TokenizeError
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import Answer, Ask, Generator, Limits, Output, fit, framed, good_rows
from tests import tiny_seq2seq

CONFIG = GenerationConfig(decoder_start_token_id=2, eos_token_ids=(0,), max_new_tokens=50)
LIMITS = Limits(0, 50)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seq2Seq]:
    path = tiny_seq2seq.write_translator(tmp_path_factory.mktemp("bundles") / "capitals")
    with tiny_seq2seq.open_seq2seq(path) as (_, engine):
        yield engine


def no_flags(_text: str, _output: Output) -> list[str]:
    return []


def make(
    engine: Seq2Seq,
    config: GenerationConfig = CONFIG,
    *,
    judge: Callable[[str, Output], Sequence[str]] = no_flags,
    **settings: Any,
) -> Generator:
    """A generator of rows without a frame."""
    return Generator(engine, config, framed(engine.tokenizer, Language()), judge=judge, **settings)


def answers(generator: Generator, texts: Sequence[str], limits: Limits = LIMITS) -> list[Answer]:
    rows = good_rows(generator.rows(texts))
    return generator.start([Ask(text, row, limits) for text, row in zip(texts, rows, strict=True)])()


def best(found: Sequence[Answer]) -> list[str]:
    return [answer.outputs[0].text for answer in found]


def test_answers_are_in_order(engine: Seq2Seq) -> None:
    texts = ["one", "two words", "x", "three more words", "y"]
    found = answers(make(engine), texts)
    assert best(found) == ["".join(map(tiny_seq2seq.french, text)) for text in texts]
    assert all(answer.outputs[0].is_complete for answer in found)


def test_nothing_to_answer(engine: Seq2Seq) -> None:
    assert answers(make(engine), []) == []


def test_rows_are_framed(engine: Seq2Seq) -> None:
    frame = Language(before=(4, 5), after=(3,), prompt="in: ")
    [row] = good_rows(framed(engine.tokenizer, frame)(["x"]))
    [plain] = good_rows(engine.tokenizer.encode(["in: x"]))
    assert row.tolist() == [4, 5, *plain.tolist(), 3]


def test_scores_are_means_over_tokens_whatever_the_length_penalty(engine: Seq2Seq) -> None:
    plain = make(engine)
    long = GenerationOptions(length_penalty=2.0).config(CONFIG, most_tokens=50)
    [one], [other] = (answers(each, ["some text"]) for each in (plain, make(engine, long)))
    assert one.outputs[0].score == pytest.approx(other.outputs[0].score)
    # Nine characters and the end, of about 300 tokens: one stands out by 9, one by 6.
    certainty = -np.log(np.exp(9) + np.exp(6) + 260) + 9
    assert one.outputs[0].score == pytest.approx(certainty, abs=0.02)
    assert one.outputs[0].num_tokens == 10


def test_each_text_has_its_own_limits(engine: Seq2Seq) -> None:
    generator = make(engine)
    texts, limits = ["abcdef", "ghijkl", "mn"], [Limits(0, 4), Limits(0, 50), Limits(5, 8)]
    rows = good_rows(generator.rows(texts))
    asks = [Ask(*each) for each in zip(texts, rows, limits, strict=True)]
    outputs = [answer.outputs[0] for answer in generator.start(asks)()]
    assert [(output.num_tokens, output.is_complete) for output in outputs] == [
        (4, False),
        (7, True),
        (6, True),
    ]


def test_samples_depend_on_text_and_seed_alone(engine: Seq2Seq) -> None:
    def sample(texts: Sequence[str], seed: int) -> list[str]:
        options = GenerationOptions(sample=True, temperature=3.0, seed=seed)
        config = options.config(CONFIG, most_tokens=50)
        return best(answers(make(engine, config), texts))

    texts = ["to be", "or not", "to be or not to be"]
    first = sample(texts, 1)
    assert sample(texts[::-1], 1) == first[::-1]
    assert sample(texts[:1], 1) == first[:1]
    assert sample(texts, 2) != first


def test_what_looks_bad_is_decoded_again(engine: Seq2Seq) -> None:
    def judge(_text: str, output: Output) -> list[str]:
        return ["repetition"] if "la la la la" in output.text else []

    texts = ["fine", "not ^"]
    once = answers(make(engine, judge=judge), texts)
    twice = answers(make(engine, judge=judge, retry=True), texts)
    assert [list(answer.flags) for answer in once] == [[], ["repetition"]]
    assert twice[0] == once[0]
    assert (twice[1].flags, twice[1].outputs[0].text.startswith("NOT")) == ([], True)


def test_the_first_answer_stays_if_the_second_is_no_better(engine: Seq2Seq) -> None:
    def judge(_text: str, _output: Output) -> list[str]:
        return ["length"]

    once, twice = (answers(make(engine, judge=judge, retry=retry), ["not ^"]) for retry in (False, True))
    assert once == twice


def test_outputs_are_polished_before_they_are_judged(engine: Seq2Seq) -> None:
    def polish(output: Output) -> Output:
        return output._replace(text=output.text.lower())

    def judge(text: str, output: Output) -> list[str]:
        return ["copy"] if text == output.text else []

    [answer] = answers(make(engine, judge=judge, polish=polish), ["this"])
    assert (answer.outputs[0].text, answer.flags) == ("this", ["copy"])


def by_length(texts: Sequence[str]) -> list[Ints | TokenizeError]:
    """Each character is a token; an `!` is three, a `?` is refused."""
    return [
        TokenizeError("no questions") if "?" in text else np.zeros(len(text) + 2 * text.count("!"), np.int64)
        for text in texts
    ]


def test_texts_that_fit_stay_whole() -> None:
    fitted = fit(["one two", "12", "one two"], by_length, 8)
    assert (fitted.cuts, list(fitted.rows)) == ({}, ["one two"])
    assert (fitted.parts("one two"), fitted.parts("12")) == (["one two"], ["12"])


def test_texts_are_halved_until_they_fit() -> None:
    text = "one two three four, five six seven eight nine 10 11 12 13 14"
    fitted = fit([text], by_length, 12)
    parts = fitted.parts(text)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 12
    assert list(fitted.rows) == [part for part in parts if any(map(str.isalpha, part))]


def test_a_part_that_is_refused_is_told() -> None:
    fitted = fit(["one two three? four"], by_length, 10)
    with pytest.raises(TokenizeError, match="no questions"):
        good_rows(fitted.rows.values())


def test_a_character_that_does_not_fit_is_refused() -> None:
    fitted = fit(["a!"], by_length, 2, wanted=bool)
    assert isinstance(fitted.rows["a"], np.ndarray)
    assert str(fitted.rows["!"]) == "one character is 3 tokens for the model"
