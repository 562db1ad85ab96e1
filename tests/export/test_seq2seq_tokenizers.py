"""Tokenizers of encoder-decoders: one tokenizer.json for each, equal to the source tokenizer."""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.manifest import Language
from lmcli.engine.tokenizer import TokenizeError, Tokenizer
from lmcli.errors import ExportError
from lmcli.export.languages import languages, prompt
from lmcli.export.prove import sample_lines
from lmcli.export.source import Checkpoint
from lmcli.export.tokenizer import load_source_tokenizer, prove_seq2seq_tokenizer, write_tokenizer
from tests.export import checkpoints
from tests.export import seq2seq_tokenizers as tiny

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
]
LINES = sample_lines()
REAL = Path(__file__).parents[3] / "shared" / "checkpoints" / "translate-en-fr"
T5_TASKS = {
    "summarization": {"prefix": "summarize: "},
    "translation_en_to_de": {"prefix": "translate English to German: "},
    "translation_en_to_fr": {"prefix": "translate English to French: "},
}
CONTROLS = "</s> <unk>, <pad> and <s>; >>fra<< __en__ en_XX eng_Latn <extra_id_0> <mask_1>"


@dataclass(frozen=True)
class Converted:
    source: Any
    tokenizer: Tokenizer
    source_languages: Mapping[str, Language]
    target_languages: Mapping[str, Language]

    def row(self, text: str, from_: str = "", to: str = "") -> list[int]:
        """What the encoder is given."""
        speaker = self.source_languages.get(from_, Language())
        target = self.target_languages.get(to, Language())
        ids = encode(self.tokenizer, target.prompt + text)
        return [*target.before, *speaker.before, *ids, *speaker.after, *target.after]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    [ids] = tokenizer.encode([text])
    assert not isinstance(ids, TokenizeError)
    found: list[int] = ids.tolist()
    return found


def checkpoint_of(folder: Path) -> Checkpoint:
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return Checkpoint(path=folder, kind="directory", id=str(folder), revision=None, files=files)


def load(folder: Path, config: Mapping[str, Any]) -> Any:
    scratch = folder / "scratch"
    scratch.mkdir()
    return load_source_tokenizer(checkpoint_of(folder), config, scratch)


def convert(folder: Path, config: Mapping[str, Any], *, keep_language: bool = False) -> Converted:
    pytest.importorskip("transformers")
    source = load(folder, config)
    path = folder / "scratch" / "written.json"
    write_tokenizer(source, path, keep_language=keep_language)
    tokenizer = Tokenizer(path, context_length=512)
    return Converted(source, tokenizer, *languages(checkpoint_of(folder), config, source))


def write_spiece_only(path: Path) -> int:
    """As mT5's checkpoints are: without a tokenizer.json."""
    size = tiny.write_t5(path)
    (path / "tokenizer.json").unlink()
    return size


def write_bigbird_pegasus(path: Path) -> int:
    return tiny.write_pegasus(path, offset=0, mask_token_sent=None, mask_token="[MASK]")


def write_multilingual_marian(path: Path) -> int:
    return tiny.write_marian(path, targets=("fra", "spa", "cmn_Hans", "ita", "por"))


def write_legacy_nllb(path: Path) -> int:
    return tiny.write_nllb(path, legacy_behaviour=True)


FAMILIES: Mapping[str, tuple[Callable[[Path], int], dict[str, Any]]] = {
    "marian": (tiny.write_marian, {"model_type": "marian"}),
    "marian into many": (write_multilingual_marian, {"model_type": "marian"}),
    "m2m_100": (tiny.write_m2m_100, {"model_type": "m2m_100"}),
    "nllb": (tiny.write_nllb, {"model_type": "m2m_100"}),
    "legacy nllb": (write_legacy_nllb, {"model_type": "m2m_100"}),
    "mbart": (tiny.write_mbart, {"model_type": "mbart"}),
    "mbart50": (tiny.write_mbart50, {"model_type": "mbart"}),
    "t5": (tiny.write_t5, {"model_type": "t5", "task_specific_params": T5_TASKS}),
    "mt5": (write_spiece_only, {"model_type": "mt5"}),
    "longt5": (tiny.write_t5, {"model_type": "longt5"}),
    "pegasus": (tiny.write_pegasus, {"model_type": "pegasus"}),
    "bigbird_pegasus": (write_bigbird_pegasus, {"model_type": "bigbird_pegasus"}),
    "bart": (tiny.write_bart, {"model_type": "bart"}),
    "blenderbot": (tiny.write_blenderbot, {"model_type": "blenderbot"}),
    "encoder-decoder": (
        checkpoints.write_tokenizer,
        {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}},
    ),
}
SLOW = ("marian", "marian into many", "m2m_100")
CODED = ("m2m_100", "nllb", "legacy nllb", "mbart", "mbart50")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    """Each family's tokenizer, converted once."""
    found: dict[str, Converted] = {}

    def family(name: str) -> Converted:
        if name not in found:
            pytest.importorskip("transformers")
            folder = tmp_path_factory.mktemp("tokenizer") / "checkpoint"
            write, config = FAMILIES[name]
            found[name] = convert(folder, {"vocab_size": write(folder), **config})
        return found[name]

    return family


Families = Callable[[str], Converted]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_proof_finds_no_difference(families: Families, name: str) -> None:
    found = families(name)
    facts = prove_seq2seq_tokenizer(
        found.source, found.tokenizer, found.source_languages, found.target_languages, LINES
    )
    assert facts == {"lines": 63, "different": 0, "ties": 0}


# The languages of a row, and what a user of transformers does to have it.
@pytest.mark.parametrize(
    ("name", "from_", "to", "text"),
    [
        ("marian", "en", "fr", "{}"),
        ("marian into many", "en", "cmn_Hans", ">>cmn_Hans<< {}"),
        ("m2m_100", "fr", "en", "{}"),
        ("nllb", "fra_Latn", "eng_Latn", "{}"),
        ("legacy nllb", "fra_Latn", "eng_Latn", "{}"),
        ("mbart", "fr_XX", "en_XX", "{}"),
        ("mbart50", "fr_XX", "en_XX", "{}"),
        ("t5", "en", "fr", "translate English to French: {}"),
        ("mt5", "", "", "{}"),
        ("pegasus", "", "", "{}"),
        ("bart", "", "", "{}"),
        ("encoder-decoder", "", "", "{}"),
    ],
)
def test_rows_are_those_of_transformers(
    families: Families, name: str, from_: str, to: str, text: str
) -> None:
    found = families(name)
    if name in CODED:
        found.source.src_lang = from_
    theirs = [found.source(text.format(line)).input_ids for line in LINES]
    assert [found.row(line, from_, to) for line in LINES] == theirs


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_transformers(families: Families, name: str) -> None:
    found = families(name)
    rows = [encode(found.tokenizer, line) for line in LINES]
    rows += [[], rows[0][:1], rows[0][-1:], list(range(0, len(found.source), 7))]
    theirs = [found.source.decode(row, skip_special_tokens=True) for row in rows]
    assert found.tokenizer.decode(rows) == theirs


@pytest.mark.parametrize(
    ("name", "controls"),
    [
        ("marian", {"</s>": 0, "<unk>": 1}),
        ("m2m_100", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
        ("nllb", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
        ("mbart", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
        ("mbart50", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
        ("t5", {"<pad>": 0, "</s>": 1, "<unk>": 2}),
        ("pegasus", {"<pad>": 0, "</s>": 1, "<mask_1>": 2, "<mask_2>": 3, "<unk>": 105}),
        ("bart", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
    ],
)
def test_control_tokens_have_their_published_ids(
    families: Families, name: str, controls: dict[str, int]
) -> None:
    tokenizer = families(name).tokenizer
    assert {tokenizer.token(index): index for index in controls.values()} == controls


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_a_text_are_text(families: Families, name: str) -> None:
    found = families(name)
    inner = encode(found.tokenizer, CONTROLS)
    ends = set(encode(found.tokenizer, ""))
    inner = inner[1:-1] if inner[0] in ends else inner[:-1]
    controls = {*found.source.all_special_ids} - {found.source.unk_token_id}
    codes = {index for each in found.source_languages.values() for index in each.before + each.after}
    assert not {*inner} & (controls | codes)


@pytest.mark.parametrize("name", SLOW)
def test_control_tokens_in_a_text_are_the_characters_they_are_to_sentencepiece(
    families: Families, name: str
) -> None:
    found = families(name)
    ours = encode(found.tokenizer, CONTROLS)
    theirs = found.source(CONTROLS, split_special_tokens=True).input_ids
    assert ours == (theirs[1:] if name == "m2m_100" else theirs)


@pytest.mark.parametrize(
    "text",
    ["é", "aéb", "é à", "éà", "l'été", "_é_", "à_ai_", "œuf", "漢字", "a漢é", "", " ", "▁", " ▁ a▁"],
    ids=ascii,
)
def test_characters_that_only_the_target_knows(families: Families, text: str) -> None:
    found = families("marian")
    assert encode(found.tokenizer, text) == found.source(text).input_ids


def test_one_of_them_is_a_token_of_the_target(families: Families) -> None:
    found = families("marian")
    assert found.source.encoder["é"] in encode(found.tokenizer, "caf é")
    assert found.source.encoder["é"] not in encode(found.tokenizer, "caf éé")


@pytest.mark.parametrize(("name", "code"), [("marian", "en"), ("m2m_100", "en")], ids=["marian", "m2m_100"])
def test_decomposed_letters_are_composed(families: Families, name: str, code: str) -> None:
    found = families(name)
    found.source.src_lang = code
    decomposed = [unicodedata.normalize("NFD", line) for line in (*tiny.FRENCH, *LINES)]
    theirs = [found.source(line).input_ids for line in decomposed]
    assert [found.row(line, code) for line in decomposed] == theirs


def test_ties_are_counted(tmp_path: Path) -> None:
    # Pieces of two lengths take a row of letters apart in ways that sentencepiece tells by rounding alone.
    size = tiny.write_marian(tmp_path, text=(*tiny.ENGLISH, *["a" * 127] * 4))
    found = convert(tmp_path, {"model_type": "marian", "vocab_size": size})
    lines = ["a" * length for length in range(130, 190)]
    facts = prove_seq2seq_tokenizer(found.source, found.tokenizer, {}, {}, lines)
    assert facts["different"] == 0
    assert facts["ties"] > 0


def test_codes_of_m2m_100(families: Families) -> None:
    found = families("m2m_100")
    index = found.source.get_lang_id("fr")
    assert len(found.source_languages) == 100
    assert found.source_languages["fr"] == Language(before=(index,))
    assert found.target_languages["fr"] == Language(forced_bos_token_id=index)


@pytest.mark.parametrize(
    ("name", "count", "code"), [("nllb", 202, "fra_Latn"), ("mbart50", 52, "fr_XX")], ids=["nllb", "mbart50"]
)
def test_codes_before_the_text(families: Families, name: str, count: int, code: str) -> None:
    found = families(name)
    index = found.source.convert_tokens_to_ids(code)
    assert len(found.source_languages) == count
    assert found.source_languages[code] == Language(before=(index,))
    assert found.target_languages[code] == Language(forced_bos_token_id=index)


def test_codes_behind_the_text(families: Families) -> None:
    found = families("mbart")
    index = found.source.convert_tokens_to_ids("ro_RO")
    assert len(found.source_languages) == 25
    assert found.source_languages["ro_RO"] == Language(after=(index,))
    assert found.target_languages["ro_RO"] == Language(decoder_start_token_id=index)
    legacy = families("legacy nllb")
    index = legacy.source.convert_tokens_to_ids("fra_Latn")
    assert legacy.source_languages["fra_Latn"] == Language(after=(index,))
    assert legacy.target_languages["fra_Latn"] == Language(forced_bos_token_id=index)


def test_codes_that_the_model_lacks_are_left_out(families: Families, tmp_path: Path) -> None:
    source = families("mbart").source
    limit = source.convert_tokens_to_ids("cs_CZ")
    known, _ = languages(checkpoint_of(tmp_path), {"model_type": "mbart", "vocab_size": limit + 1}, source)
    assert list(known) == ["ar_AR", "cs_CZ"]


def test_targets_of_marian_are_tokens(families: Families) -> None:
    found = families("marian into many")
    assert found.source_languages == {"en": Language()}
    assert found.target_languages == {
        code: Language(before=(index,))
        for index, code in enumerate(["fra", "spa", "cmn_Hans", "ita", "por"], start=2)
    }


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("opus-mt-en-fr", ("en", "fr")),
        ("opus-mt-ROMANCE-en", ("ROMANCE", "en")),
        ("opus-mt-en-mul", ("en", "mul")),
        ("opus-mt-NORTH_EU-NORTH_EU", ("NORTH_EU", "NORTH_EU")),
        ("opus-mt-tc-big-zh-en", ("zh", "en")),
        ("opus-mt-tc-bible-big-deu_eng-fra", ("deu_eng", "fra")),
        ("my-model", None),
        ("opus-mt-en-fr-of-mine", None),
    ],
)
def test_a_pair_is_named_by_the_checkpoint(tmp_path: Path, name: str, pair: tuple[str, str] | None) -> None:
    folder = tmp_path / name
    tiny.write_marian(folder, source_lang=None, target_lang=None)
    found = convert(folder, {"model_type": "marian"})
    expected = tuple({code: Language()} for code in pair) if pair else ({}, {})
    assert (found.source_languages, found.target_languages) == expected
    on_hub = Checkpoint(path=tmp_path / "hash", kind="hub", id=f"org/{name}", revision="hash", files={})
    assert languages(on_hub, {"model_type": "marian"}, found.source) == expected


def test_a_language_that_is_no_code_is_left_out(tmp_path: Path) -> None:
    tiny.write_marian(tmp_path, source_lang=["en"], target_lang="fr\n\x1b[0m", targets=("a b", "de"))
    found = convert(tmp_path, {"model_type": "marian"})
    assert (list(found.source_languages), list(found.target_languages)) == ([], ["de"])


@pytest.mark.parametrize(
    ("config", "from_", "to"),
    [
        (
            {"task_specific_params": T5_TASKS},
            ["en"],
            {"de": "translate English to German: ", "fr": "translate English to French: "},
        ),
        (
            {
                "task_specific_params": {
                    "translation_en_to_de": {"prefix": "a: "},
                    "translation_de_to_en": {"prefix": "b: "},
                    "translation_fr_to_de": {"prefix": "c: "},
                }
            },
            ["en", "de"],
            {"de": "a: ", "en": "b: "},
        ),
        ({"task_specific_params": {"translation_en_to_de": {"num_beams": 4}, "x": 1}}, [], {}),
        ({"task_specific_params": [1]}, [], {}),
        ({}, [], {}),
    ],
    ids=["t5", "two ways", "without a prompt", "no object", "nothing"],
)
def test_languages_of_prompts(
    tmp_path: Path, config: dict[str, Any], from_: list[str], to: dict[str, str]
) -> None:
    sources, targets = languages(checkpoint_of(tmp_path), config, object())
    assert sources == {code: Language() for code in from_}
    assert targets == {code: Language(prompt=text) for code, text in to.items()}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"task_specific_params": T5_TASKS, "prefix": "x"}, "summarize: "),
        ({"prefix": "sum: "}, "sum: "),
        ({"task_specific_params": {"summarization": {"prefix": ""}}, "prefix": "x"}, ""),
        ({"task_specific_params": {"summarization": {"num_beams": 4}}, "prefix": " "}, " "),
        ({"task_specific_params": None, "prefix": 7}, ""),
        ({}, ""),
    ],
)
def test_prompt(config: dict[str, Any], expected: str) -> None:
    assert prompt(config) == expected


@pytest.mark.parametrize("name", CODED)
def test_the_language_of_the_tokenizer_can_stay(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    write, config = FAMILIES[name]
    found = convert(tmp_path, {"vocab_size": write(tmp_path), **config}, keep_language=True)
    facts = prove_seq2seq_tokenizer(found.source, found.tokenizer, {}, {}, LINES)
    assert facts["different"] == 0
    assert encode(found.tokenizer, "") == found.source("").input_ids
    assert len(encode(found.tokenizer, "")) == 2


@pytest.mark.parametrize(
    ("write", "model_type"),
    [
        (tiny.write_t5, "t5"),
        (tiny.write_marian, "marian"),
        (tiny.write_bart, "bart"),
        (checkpoints.write_tokenizer, "bert"),
    ],
    ids=["t5", "marian", "bart", "bert"],
)
def test_texts_are_cleaned_up_where_transformers_does(
    tmp_path: Path, write: Callable[..., int], model_type: str
) -> None:
    pytest.importorskip("transformers")
    write(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
    found = convert(tmp_path, {"model_type": model_type})
    text = "they do n't , i 'm here ; it 's he 've . ' yes ' ! is it ?"
    row = encode(found.tokenizer, text)
    assert found.tokenizer.decode([row]) == [found.source.decode(row, skip_special_tokens=True)]
    assert "don't, " in found.tokenizer.decode([row])[0]


def change_json(name: str, **changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def truncate(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def overwrite(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def remove(*names: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def rename(token: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "vocab.json"
        ids = json.loads(path.read_text())
        path.write_text(json.dumps({new if each == token else each: index for each, index in ids.items()}))

    return change


SPM = "sentencepiece.bpe.model"
NEW_TOKEN = {"304": {"content": "<new>", "special": False}}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("marian", remove("source.spm"), "cannot be loaded"),
        ("marian", remove("target.spm"), "cannot be loaded"),
        ("marian", remove("vocab.json"), "cannot be loaded"),
        ("marian", truncate("source.spm"), "missing or damaged"),
        ("marian", overwrite("target.spm", ""), "missing or damaged"),
        ("marian", overwrite("vocab.json", "[]"), "cannot be loaded"),
        ("marian", overwrite("vocab.json", '{"<unk>": 0, "<pad>": 1}'), "one by one"),
        ("marian", overwrite("vocab.json", '{"</s>": "a", "<unk>": 1, "<pad>": 2}'), "one by one"),
        ("marian", overwrite("vocab.json", '{"</s>": 0, "<unk>": 1, "<pad>": 3}'), "one by one"),
        ("marian", overwrite("vocab.json", '{"</s>": 0, "<unk>": 1, "<pad>": 1}'), "one by one"),
        ("marian", change_json("vocab.json", more=304), "305 tokens, the model 304"),
        ("marian", rename("▁the", "\ud800"), "cannot be written"),
        ("marian", overwrite("tokenizer_config.json", "{"), "not JSON"),
        ("marian", change_json("tokenizer_config.json", separate_vocabs=True), "each of its two languages"),
        (
            "marian",
            change_json("tokenizer_config.json", eos_token=None),
            "lacks the unknown token or the end",
        ),
        ("marian", change_json("tokenizer_config.json", added_tokens_decoder=NEW_TOKEN), "added tokens"),
        ("m2m_100", remove(SPM), "missing or damaged"),
        ("m2m_100", overwrite(SPM, "no model"), "missing or damaged"),
        ("m2m_100", overwrite("vocab.json", "{}"), "one by one"),
        ("nllb", overwrite("tokenizer.json", "{}"), "cannot be loaded"),
        ("nllb", change_json("tokenizer_config.json", eos_token=None), "cannot be loaded"),
        ("t5", remove("tokenizer.json", "spiece.model"), "cannot be loaded"),
        ("mt5", overwrite("spiece.model", "no model"), "cannot be loaded"),
        ("t5", change_json("tokenizer_config.json", tokenizer_class="PLBartTokenizer"), "missing or damaged"),
    ],
)
def test_unusable_files_are_refused(
    tmp_path: Path, name: str, change: Callable[[Path], object], message: str
) -> None:
    pytest.importorskip("transformers")
    write, config = FAMILIES[name]
    size = write(tmp_path)
    change(tmp_path)
    with pytest.raises(ExportError, match=message) as refusal:
        convert(tmp_path, {"vocab_size": size, **config})
    assert refusal.value.hint


def test_a_slow_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny.write_mbart(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ExportError, match="PLBartTokenizer has no conversion"):
        convert(tmp_path, {"model_type": "plbart"})


def test_a_damaged_map_of_characters_is_refused(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    tiny.write_marian(tmp_path)
    path = tmp_path / "source.spm"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    # The second part of the map, the texts, is no UTF-8 any more.
    model.normalizer_spec.precompiled_charsmap = (
        model.normalizer_spec.precompiled_charsmap[:-20] + b"\xff" * 20
    )
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"files are (missing or )?damaged") as refusal:
        convert(tmp_path, {"model_type": "marian"})
    assert refusal.value.hint


def spoil(found: Converted, folder: Path, **changes: object) -> Tokenizer:
    """The same tokenizer with other parts."""
    path = folder / "spoiled.json"
    write_tokenizer(found.source, path)
    change_json(path.name, **changes)(folder)
    return Tokenizer(path, context_length=512)


@pytest.mark.parametrize("name", ["marian", "m2m_100", "t5"])
def test_the_proof_names_the_line_that_differs(families: Families, tmp_path: Path, name: str) -> None:
    found = families(name)
    spoiled = spoil(found, tmp_path, post_processor=None)
    with pytest.raises(ExportError, match="on 'first line'") as refusal:
        prove_seq2seq_tokenizer(
            found.source, spoiled, found.source_languages, found.target_languages, ["first line"]
        )
    assert refusal.value.hint


@pytest.mark.parametrize("name", ["marian", "m2m_100", "t5"])
def test_the_proof_compares_texts(families: Families, tmp_path: Path, name: str) -> None:
    found = families(name)
    spoiled = spoil(found, tmp_path, decoder={"type": "Fuse"})
    with pytest.raises(ExportError, match="makes another text"):
        prove_seq2seq_tokenizer(
            found.source, spoiled, found.source_languages, found.target_languages, LINES[:1]
        )


def test_a_checkpoint_may_name_no_class(tmp_path: Path) -> None:
    checkpoints.write_tokenizer(tmp_path)
    change_json("tokenizer_config.json", tokenizer_class=None)(tmp_path)
    found = convert(tmp_path, FAMILIES["encoder-decoder"][1])
    assert type(found.source).__name__ == "BertTokenizerFast"


@pytest.mark.parametrize(
    ("named", "chosen"), [("MBart50Tokenizer", "MBart50TokenizerFast"), (["x"], "MBartTokenizerFast")]
)
def test_a_checkpoint_may_name_the_class_in_its_configuration(
    tmp_path: Path, named: object, chosen: str
) -> None:
    tiny.write_mbart50(tmp_path)
    change_json("tokenizer_config.json", tokenizer_class=None)(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tokenizer_class": named}))
    assert type(load(tmp_path, {"model_type": "mbart"})).__name__ == chosen


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tiny_tokenizers_are_the_same_in_every_run(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    write, _ = FAMILIES[name]
    sizes = []
    for run in ("first", "second"):
        tiny.forget()
        sizes.append(write(tmp_path / run))
    assert sizes[0] == sizes[1]
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def real_lines() -> Sequence[str]:
    chekhov = REAL.parents[1] / "data" / "chekhov.txt"
    return [*LINES, *chekhov.read_text(encoding="utf-8").splitlines()[:1000]]


@pytest.mark.skipif(not REAL.is_dir(), reason="the checkpoint translate-en-fr is not there")
def test_a_trained_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = json.loads((REAL / "config.json").read_text())
    checkpoint = checkpoint_of(REAL)
    source = load_source_tokenizer(checkpoint, config, tmp_path)
    path = tmp_path / "written.json"
    write_tokenizer(source, path)
    from_, to = languages(checkpoint, config, source)
    assert (from_, to) == ({"en": Language()}, {"fr": Language()})
    lines = real_lines()
    facts = prove_seq2seq_tokenizer(source, Tokenizer(path, context_length=256), from_, to, lines)
    assert facts == {"lines": len(lines), "different": 0, "ties": 0}
