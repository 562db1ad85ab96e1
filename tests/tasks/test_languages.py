from collections.abc import Sequence

import pytest

from lmcli.bundle.manifest import Language
from lmcli.errors import UsageError
from lmcli.tasks.languages import (
    choose_source,
    choose_targets,
    has_spaces,
    is_same,
    parse_language,
    scripts,
    splitter_language,
)

NLLB = [
    *("ace_Arab", "ace_Latn", "arb_Arab", "arb_Latn", "arz_Arab", "deu_Latn", "eng_Latn", "fra_Latn"),
    *("nno_Latn", "nob_Latn", "pes_Arab", "por_Latn", "prs_Arab", "tgl_Latn", "zho_Hans", "zho_Hant"),
]
MBART = ["ar_AR", "de_DE", "en_XX", "fr_XX", "pt_XX", "zh_CN"]
MARIAN = ["cat", "cmn_Hans", "cmn_Hant", "fra", "por", "pt_br", "spa"]


def languages(codes: Sequence[str]) -> dict[str, Language]:
    """Languages that a model has to be told apart."""
    return {code: Language(before=(index,)) for index, code in enumerate(codes)}


@pytest.mark.parametrize(
    ("codes", "wanted", "code"),
    [
        (NLLB, "fra_Latn", "fra_Latn"),
        (NLLB, "FRA-latn", "fra_Latn"),
        (NLLB, "fr", "fra_Latn"),
        (NLLB, "French", "fra_Latn"),
        (NLLB, "français", "fra_Latn"),
        (NLLB, "fr-FR", "fra_Latn"),
        (NLLB, "fr_XX", "fra_Latn"),
        (NLLB, "ar", "arb_Arab"),
        (NLLB, "Egyptian Arabic", "arz_Arab"),
        (NLLB, "Norwegian", "nob_Latn"),
        (NLLB, "nn", "nno_Latn"),
        (NLLB, "Persian", "pes_Arab"),
        (NLLB, "Tagalog", "tgl_Latn"),
        (NLLB, "zh-TW", "zho_Hant"),
        (NLLB, "Chinese (Simplified)", "zho_Hans"),
        (MBART, "eng_Latn", "en_XX"),
        (MBART, "german", "de_DE"),
        (MBART, "Chinese", "zh_CN"),
        (MARIAN, "pt-BR", "pt_br"),
        (MARIAN, "pt", "por"),
        (MARIAN, "Portuguese", "por"),
        (["French", "German"], "french", "French"),
    ],
)
def test_a_language_is_found_by_code_tag_or_name(codes: Sequence[str], wanted: str, code: str) -> None:
    assert choose_targets(languages(codes), [wanted]) == (code,)
    assert choose_source(languages(codes), wanted) == code


@pytest.mark.parametrize(
    ("codes", "wanted", "message", "hint"),
    [
        (
            NLLB,
            "zh",
            "--to 'zh': the model has several of them",
            "choose one of zho_Hans, zho_Hant",
        ),
        (
            NLLB,
            "Acehnese",
            "--to 'Acehnese': the model has several of them",
            "choose one of ace_Arab, ace_Latn",
        ),
        (
            MBART,
            "frnch",
            "--to 'frnch': the model has no such language; did you mean fr_XX?",
            "it has ar_AR, de_DE, en_XX, fr_XX, pt_XX, zh_CN",
        ),
        (
            MBART,
            "zh-TW",
            "--to 'zh-TW': the model has no such language",
            "it has ar_AR, de_DE, en_XX, fr_XX, pt_XX, zh_CN",
        ),
        (
            ["fr"],
            "Croatian",
            "--to 'Croatian': the model has no such language",
            "it has fr",
        ),
        (["fr"], "\0", "--to '\\x00': the model has no such language", "it has fr"),
        (["fr"], "", "--to '': the model has no such language", "it has fr"),
        ([], "fr", "--to 'fr': the model does not name its languages", "leave it out"),
    ],
)
def test_what_is_not_one_language_is_refused(
    codes: Sequence[str], wanted: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        choose_targets(languages(codes), [wanted])
    assert (error.value.message, error.value.hint) == (message, hint)


def test_a_long_list_is_shortened() -> None:
    codes = [f"x{first}{second}" for first in "abcdef" for second in "abcdef"]
    with pytest.raises(UsageError) as error:
        choose_targets(languages(codes), ["nonsense"])
    assert error.value.hint.endswith("xdf and 12 more")


def test_targets_are_each_named_once() -> None:
    assert choose_targets(languages(NLLB), ["German", "fr", "fra_Latn", "de"]) == ("deu_Latn", "fra_Latn")


@pytest.mark.parametrize(("codes", "targets"), [(["fr"], ("fr",)), ([], ("",))])
def test_the_only_language_needs_no_option(codes: Sequence[str], targets: tuple[str, ...]) -> None:
    assert choose_targets(languages(codes), []) == targets
    assert choose_source(languages(codes), None) == targets[0]


def test_one_of_several_languages_must_be_named() -> None:
    hint = "{} de, for example; there are de, fr"
    with pytest.raises(UsageError) as error:
        choose_targets(languages(["de", "fr"]), [])
    assert error.value.message == "--to is missing: the model has 2 languages to choose from"
    assert error.value.hint == hint.format("--to")
    with pytest.raises(UsageError) as error:
        choose_source(languages(["de", "fr"]), None)
    assert error.value.message == "--from is missing: the model has 2 languages to choose from"
    assert error.value.hint == hint.format("--from")


def test_a_model_that_treats_all_sources_alike_need_not_know() -> None:
    alike = {"de": Language(), "fr": Language()}
    assert choose_source(alike, None) == ""
    assert choose_source(alike, "French") == "fr"


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("en", "en"),
        ("fra_Latn", "fr"),
        ("fr_XX", "fr"),
        ("cmn_Hans", "zh"),
        ("ROMANCE", "en"),
        ("en_el_es_fi", "en"),
        ("", "en"),
    ],
)
def test_sentences_are_split_by_the_iso_code(code: str, language: str) -> None:
    assert splitter_language(code) == language


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("fr", {"LATIN"}),
        ("rus", {"CYRILLIC"}),
        ("zho_Hant", {"CJK"}),
        ("ja_XX", {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
        ("kor_Hang", {"HANGUL"}),
        ("arb_Latn", {"LATIN"}),
        ("srp_Cyrl", {"CYRILLIC"}),
        ("sr", set()),
        ("got", set()),
        ("", set()),
    ],
)
def test_scripts(code: str, found: set[str]) -> None:
    assert scripts(code) == found


@pytest.mark.parametrize(
    ("code", "is_so"), [("fr", True), ("ko", True), ("zh", False), ("jpn_Jpan", False), ("", True)]
)
def test_spaces_between_words(code: str, is_so: bool) -> None:
    assert has_spaces(code) is is_so


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [("en", "eng_Latn", True), ("pt", "pt_br", True), ("en", "fr", False), ("", "fr", False)],
)
def test_same_language(one: str, other: str, is_so: bool) -> None:
    assert is_same(one, other) is is_so


@pytest.mark.parametrize(("wanted", "language"), [("de", "de"), ("deu_Latn", "de"), ("German", "de")])
def test_a_language_by_itself(wanted: str, language: str) -> None:
    assert parse_language(wanted, "--language") == language


def test_an_unknown_language_by_itself() -> None:
    with pytest.raises(UsageError) as error:
        parse_language("nonsense", "--language")
    assert error.value.message == "--language 'nonsense': no such language"
    assert error.value.hint == "name it as `en` or `English`"
