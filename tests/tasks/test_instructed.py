import pytest

from lmcli.bundle.store import Bundle, read_bundle
from lmcli.engine.tokenizer import Tokenizer
from lmcli.prompting.chat import ChatTemplate, read_chat_template
from lmcli.prompting.template import Template
from lmcli.tasks.generator import good_rows
from lmcli.tasks.instructed import instructed
from tests import tiny_causal

INSTRUCTION = Template.parse("Shorten {text}!")
NUM_AROUND = len("<user\nShorten !>\n<assistant\n")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(tiny_causal.write_causal(tmp_path_factory.mktemp("bundles") / "shouts"))


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle.file("tokenizer.json"), context_length=bundle.manifest.context_length)


@pytest.fixture(scope="module")
def chat(bundle: Bundle) -> ChatTemplate:
    found = read_chat_template(bundle)
    assert found is not None
    return found


def test_texts_stand_in_the_instruction(tokenizer: Tokenizer, chat: ChatTemplate) -> None:
    rows = good_rows(instructed(tokenizer, chat, INSTRUCTION)(["", "one", "<|im_end|>"]))
    assert [len(row) - NUM_AROUND for row in rows] == [0, 3, 10]
    assert tokenizer.decode([row.tolist() for row in rows])[1] == "user\nShorten one!\nassistant\n"


def test_a_text_beyond_what_a_chat_template_takes_is_measured(
    tokenizer: Tokenizer, chat: ChatTemplate
) -> None:
    texts = ["one", "x" * 1_100_000, "two"]
    rows = good_rows(instructed(tokenizer, chat, INSTRUCTION)(texts))
    assert [len(row) for row in rows] == [3 + NUM_AROUND, 1_100_000, 3 + NUM_AROUND]


def test_what_a_chat_template_refuses_has_no_row(tokenizer: Tokenizer) -> None:
    chat = ChatTemplate("{{ raise_exception('Not now') }}", {}, where="x")
    [refused] = instructed(tokenizer, chat, INSTRUCTION)(["one"])
    assert str(refused) == "the chat template refuses it: Not now"
