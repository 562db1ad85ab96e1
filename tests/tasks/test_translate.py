from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.manifest import Language
from lmcli.bundle.store import read_bundle
from lmcli.errors import UsageError
from lmcli.records.record import Failure, Record
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.translate import Translate, TranslateOptions, plan
from tests import tiny_seq2seq


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def capitals(bundles: Path) -> Path:
    """From English into French, which is English in capitals with accents."""
    return tiny_seq2seq.write_translator(bundles / "capitals")


@pytest.fixture(scope="module")
def polyglot(bundles: Path) -> Path:
    """From English or German into French (capitals), German (thirteen letters further) and Russian."""
    return tiny_seq2seq.write_polyglot(bundles / "polyglot")


def records_of(path: Path, records: Sequence[Record], **options: Any) -> list[Record]:
    generation = GenerationOptions(**options.pop("generation", {}))
    with tiny_seq2seq.open_seq2seq(path) as (manifest, engine):
        task = Translate(manifest, engine, TranslateOptions(generation=generation, **options))
        return list(task(records))


def fields(path: Path, text: str, **options: Any) -> dict[str, Any]:
    [record] = records_of(path, [Record(text)], **options)
    assert record.failure is None
    return dict(record.fields)


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("One word. Then more!", "ONÉ WORD. THÉN MORÉ!"),
        ("  \tindented\n\n- a list\n- of two  \n", "  \tINDÉNTÉD\n\n- A LIST\n- OF TWO  \n"),
        ("One.\u00a0\u00a0Two.", "ONÉ.\u00a0\u00a0TWO."),
        ("über die straße", "üBÉR DIÉ STRAßÉ"),
        ("-----\n12:30\nhttps://example.org/a?b=c\nme@example.org\n/etc/hosts", None),
        ("See https://example.org now", "SÉÉ HTTPS://ÉXAMPLÉ.ORG NOW"),
        ("😀 😀", None),
        ("no </s> end", "NO </S> ÉND"),
    ],
    ids=[
        "sentences",
        "lines",
        "odd spaces",
        "bytes",
        "nothing to translate",
        "a URL inside",
        "emoji",
        "control",
    ],
)
def test_a_text_is_translated_and_its_white_space_stays(
    capitals: Path, text: str, translation: str | None
) -> None:
    assert fields(capitals, text) == {"translation": text if translation is None else translation}


def french(text: str) -> str:
    return "".join(map(tiny_seq2seq.french, text))


def rows(path: Path, text: str, **options: Any) -> list[str]:
    """The texts that the model gets to see."""
    seen: list[str] = []
    with tiny_seq2seq.open_seq2seq(path) as (manifest, engine):
        submit = engine.submit

        def noting(sources: Any, config: Any) -> Any:
            seen.extend(engine.tokenizer.decode([source.input_ids.tolist() for source in sources]))
            return submit(sources, config)

        engine.submit = noting  # type: ignore[method-assign]
        list(Translate(manifest, engine, TranslateOptions(**options))([Record(text)]))
    return sorted(seen)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ["One two.", "Three", "four.", "Five."]),
        ({"split": False}, ["One two. Three", "four. Five."]),
        ({"unwrap": True}, ["One two.", "Three four.", "Five."]),
        ({"unwrap": True, "split": False}, ["One two. Three four. Five."]),
    ],
    ids=["sentences", "lines", "unwrapped sentences", "paragraphs"],
)
def test_the_model_sees_sentences_or_lines(capitals: Path, options: dict[str, Any], found: list[str]) -> None:
    assert rows(capitals, "One two. Three\nfour. Five.", **options) == sorted(found)


def test_equal_sentences_are_translated_once(capitals: Path) -> None:
    assert rows(capitals, "Yes. Yes. No. Yes.") == ["No.", "Yes."]


def test_unwrapped_lines_become_one(capitals: Path) -> None:
    assert fields(capitals, "a line\nand one\n\nmore", unwrap=True) == {
        "translation": "A LINÉ AND ONÉ\n\nMORÉ"
    }


@pytest.mark.parametrize(
    "text",
    ["word " * 50, "x" * 300, "one, two, three, " * 9 + "four. five " * 9, "e 1, " * 30 + "one " + "2 " * 30],
    ids=["words", "no white space", "clauses", "mostly numbers"],
)
def test_nothing_is_cut_off(tmp_path: Path, text: str) -> None:
    narrow = tiny_seq2seq.write_translator(tmp_path / "narrow", context_length=16)
    assert fields(narrow, text) == {"translation": french(text)}
    assert max(len(row) for row in rows(narrow, text)) <= 15  # and the end


def test_sentences_without_spaces_get_them_in_a_language_that_has_them(tmp_path: Path) -> None:
    chinese = {"source_languages": {"zh": Language()}, "target_languages": {"fr": Language()}}
    path = tiny_seq2seq.write_seq2seq(tmp_path / "zh-fr", {"fr": tiny_seq2seq.french}, facts=chinese)
    assert fields(path, "你好。世界。") == {"translation": "你好。 世界。"}
    japanese = {"source_languages": {"zh": Language()}, "target_languages": {"ja": Language()}}
    path = tiny_seq2seq.write_seq2seq(tmp_path / "zh-ja", {"fr": tiny_seq2seq.french}, facts=japanese)
    assert fields(path, "你好。世界。") == {"translation": "你好。世界。"}


def test_several_languages(polyglot: Path) -> None:
    assert fields(polyglot, "Hello. Bye", to=("German", "fr", "de")) == {
        "translation": {"de": "URYYB. OLR", "fr": "HÉLLO. BYÉ"}
    }


def test_one_of_several_languages(polyglot: Path) -> None:
    assert fields(polyglot, "Hello", to=("ru",)) == {"translation": "здлло"}


def test_a_forced_first_token_is_no_part_of_the_translation(tmp_path: Path) -> None:
    path = tiny_seq2seq.write_forced(tmp_path / "forced")
    assert fields(path, "Hello", from_="German") == {"translation": "HÉLLO"}


def test_frames_are_put_together(tmp_path: Path) -> None:
    facts = {
        "prompt": "now ",
        "source_languages": {"en": Language(before=(3,), after=(4,), prompt="from en ")},
        "target_languages": {
            "fr": Language(before=(5,), after=(6,), prompt="to fr: ", decoder_start_token_id=4),
            "de": Language(forced_bos_token_id=5),
        },
    }
    path = tiny_seq2seq.write_seq2seq(tmp_path / "framed", {"fr": tiny_seq2seq.french}, facts=facts)
    made = plan(read_bundle(path).manifest, TranslateOptions(to=("fr", "de")))
    assert made.frames == {
        "fr": Language(before=(5, 3), after=(4, 6), prompt="now from en to fr: ", decoder_start_token_id=4),
        "de": Language(before=(3,), after=(4,), prompt="now from en ", forced_bos_token_id=5),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--to is missing: the model has 3 languages to choose from"),
        ({"to": ("es",)}, "--to 'es': the model has no such language"),
        ({"to": ("fr",), "from_": "fr"}, "--from 'fr': the model has no such language"),
    ],
    ids=["missing", "unknown target", "unknown source"],
)
def test_languages_are_checked_against_the_manifest(
    polyglot: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        plan(read_bundle(polyglot).manifest, TranslateOptions(**options))
    assert error.value.message == message


def test_the_source_may_be_a_target(polyglot: Path) -> None:
    made = plan(read_bundle(polyglot).manifest, TranslateOptions(to=("de",), from_="de"))
    assert (made.source, [*made.frames]) == ("de", ["de"])


def test_no_output_is_longer_than_the_model_can_make_it(capitals: Path) -> None:
    generation = GenerationOptions(max_new_tokens=10_000)
    made = plan(read_bundle(capitals).manifest, TranslateOptions(generation=generation))
    assert made.config.max_new_tokens == 200


def test_a_loop_is_flagged(capitals: Path) -> None:
    assert fields(capitals, "Fine. a ^")["translation_flags"] == ["repetition", "length"]


def test_copies_and_scripts_are_flagged(tmp_path: Path) -> None:
    languages = {"source_languages": {"en": Language()}, "target_languages": {"ru": Language()}}
    echo = tiny_seq2seq.write_seq2seq(tmp_path / "echo", {"ru": str}, facts=languages)
    latin = tiny_seq2seq.write_seq2seq(tmp_path / "latin", {"ru": tiny_seq2seq.rot13}, facts=languages)
    assert fields(echo, "where is the station")["translation_flags"] == ["copy"]
    assert fields(latin, "where is the station")["translation_flags"] == ["script"]


def test_a_translation_into_its_own_language_may_be_a_copy(tmp_path: Path) -> None:
    languages = {"source_languages": {"en": Language()}, "target_languages": {"eng": Language()}}
    path = tiny_seq2seq.write_seq2seq(tmp_path / "same", {"en": str}, facts=languages)
    assert fields(path, "where is the station") == {"translation": "where is the station"}


def test_a_loop_ends_soon_unless_the_user_gives_the_limit(capitals: Path) -> None:
    def num_words(**generation: Any) -> int:
        return str(fields(capitals, "a^", generation=generation)["translation"]).count("la")

    # Three times the three tokens of the row, and 32, of which the first is the A.
    assert (num_words(), num_words(max_new_tokens=60), num_words(max_new_tokens=7)) == (40, 59, 6)


def test_degenerate_translations_are_decoded_again(capitals: Path) -> None:
    found = fields(capitals, "Fine. Not ^.", generation={"retry_degenerate": True})
    assert found["translation"].startswith("FINÉ. NOT")
    assert "translation_flags" not in found


def test_scores_and_the_n_best(capitals: Path) -> None:
    found = fields(capitals, "ab. 12\nc", generation={"scores": True, "nbest": 2})
    best, second = found["translation_nbest"]
    assert (found["translation"], found["translation_score"]) == (best["text"], best["score"])
    assert best["text"] == "AB. 12\nC"
    assert second["text"].casefold() == "ab. 12\nc"
    assert second["text"] != best["text"]
    assert 0 > best["score"] > second["score"]


def test_samples_depend_on_the_text_alone(capitals: Path) -> None:
    generation = {"sample": True, "temperature": 3.0}
    records = [Record(text) for text in ("One. Two.", "Two.", "One.")]
    both, second, first = records_of(capitals, records, generation=generation)
    assert both.fields["translation"] == f"{first.fields['translation']} {second.fields['translation']}"
    assert records_of(capitals, records[1:2], generation=generation) == [second]


def test_tokens_are_counted(capitals: Path) -> None:
    """Each byte and the end are tokens, in the text and in its translation."""
    failed = Record("a", failure=Failure("invalid_json", "not JSON"))
    records = records_of(capitals, [Record("ab. c."), Record("12"), Record(""), failed, Record("ab. c.")])
    counts = {"translation.results": 1, "translation.tokens": 4 + 3, "translation.new_tokens": 4 + 3}
    assert [dict(record.counts) for record in records] == [counts, {"translation.results": 1}, {}, {}, counts]


def test_each_language_and_each_of_the_n_best_counts(polyglot: Path) -> None:
    """A row begins with the token of its language."""
    [record] = records_of(polyglot, [Record("ab")], to=("fr", "de"), generation={"nbest": 2})
    assert dict(record.counts) == {
        "translation.results": 2,
        "translation.tokens": 2 * 4,
        "translation.new_tokens": 2 * 2 * 3,
    }


def test_what_ends_at_a_limit_counts_as_truncated(capitals: Path) -> None:
    [loop, fine] = records_of(capitals, [Record("a ^"), Record("a")], generation={"max_new_tokens": 20})
    assert dict(loop.counts) == {
        "translation.results": 1,
        "translation.tokens": 4,
        "translation.new_tokens": 20,
        "translation.truncated": 1,
        "translation.degenerate": 1,
        "translation.flag:repetition": 1,
        "translation.flag:length": 1,
    }
    assert "translation.truncated" not in fine.counts


@pytest.mark.parametrize("text", ["", " ", "\t\r", "\u3000\xa0"], ids=repr)
def test_a_blank_record_has_an_empty_translation(capitals: Path, text: str) -> None:
    assert fields(capitals, text, generation={"scores": True, "nbest": 2}) == {
        "translation": "",
        "translation_score": None,
        "translation_nbest": [],
    }


def test_failed_records_pass_untouched(capitals: Path) -> None:
    failed = Record("good", "in", 2, raw=b"{", failure=Failure("invalid_json", "not JSON"))
    assert records_of(capitals, [Record("bad"), failed, Record("good")])[1] is failed


def test_a_refused_sentence_fails_its_record_only(tmp_path: Path) -> None:
    path = tiny_seq2seq.write_translator(tmp_path / "strict", context_length=3)
    before, refused, after = records_of(path, [Record("ab"), Record("a 你"), Record("cd")])
    assert refused.failure == Failure("tokenizer", "one character is 4 tokens for the model")
    assert (refused.text, refused.fields) == ("a 你", {})
    assert [before.fields["translation"], after.fields["translation"]] == ["AB", "CD"]


def test_more_records_than_a_window_stay_in_order(capitals: Path) -> None:
    texts = [f"{'good' if index % 3 else 'bad'} {index % 500}." for index in range(10_000)]
    found = records_of(capitals, [Record(text) for text in texts])
    assert [record.fields["translation"] for record in found] == [french(text) for text in texts]


def test_the_fields_are_named_by_the_options(capitals: Path) -> None:
    [record] = records_of(
        capitals, [Record("a").with_fields(kept=1)], as_field="fr", generation={"scores": True}
    )
    assert [*record.fields] == ["kept", "fr", "fr_score"]


@pytest.mark.parametrize("name", ["", "text", "error"])
def test_fields_that_records_need(name: str) -> None:
    with pytest.raises(UsageError) as error:
        TranslateOptions(as_field=name)
    assert error.value.hint == "choose another name"
