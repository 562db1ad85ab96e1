"""Chat templates as published, rendered as transformers renders them; and those that are up to no good."""
# ruff: noqa: E501 (templates are long)

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lmcli.bundle.manifest import CHAT_TEMPLATE_NAME
from lmcli.bundle.store import read_bundle
from lmcli.errors import BundleError
from lmcli.prompting.chat import ChatError, ChatTemplate, Message, read_chat_template
from tests import tiny_causal
from tests.tiny import write_manifest

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_2 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN_2_5 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or \
(message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
MARKED = """\
{% for message in messages %}
  {%- if message.role == 'assistant' %}
    {% generation %} {{ message.content }} {%- endgeneration -%}
  {%- else %}
    {{ message | tojson }} {{- message | tojson(indent=2) }}
  {% endif %}
{% endfor %}
"""
PUBLISHED = {
    "SmolLM2": SMOLLM2,
    "Llama 3": LLAMA_3,
    "Llama 3.2": LLAMA_3_2,
    "Qwen2.5": QWEN_2_5,
    "Mistral": MISTRAL,
    "Gemma": GEMMA,
    "Zephyr": ZEPHYR,
    "marked for training": MARKED,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
DIALOGUES = {
    "question": [Message("user", ' Is 1 < 2 & "so"? <b>é</b> \n')],
    "example": [Message("user", "a\n\nb"), Message("assistant", " c "), Message("user", "{{ d }} {% e %}")],
    "system": [Message("system", "Be brief."), Message("user", "")],
}


@pytest.mark.export
@pytest.mark.parametrize("messages", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("source", PUBLISHED.values(), ids=PUBLISHED)
def test_templates_are_rendered_as_by_transformers(source: str, messages: list[Message]) -> None:
    assert rendered(ChatTemplate(source, SPECIAL, where="here"), messages) == by_transformers(
        source, messages
    )


def rendered(template: ChatTemplate, messages: list[Message]) -> str:
    try:
        return template.render(messages)
    except ChatError as error:
        return str(error)


def by_transformers(source: str, messages: list[Message]) -> str:
    pytest.importorskip("transformers")
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        [text], _ = render_jinja_template(
            [[message._asdict() for message in messages]],
            chat_template=source,
            add_generation_prompt=True,
            **SPECIAL,
        )
    except TemplateError as error:
        return f"the chat template refuses it: {error}"
    return str(text)


def test_a_dialogue_in_chatml() -> None:
    text = ChatTemplate(SMOLLM2, {}, where="here").render(DIALOGUES["system"])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('No!') }}", "the chat template refuses it: No!"),
        ("\n{{ nothing.at_all }}", "the chat template fails: undefined value, line 2"),
        ("{{ messages[0].content.__class__.__mro__ }}", "the chat template fails: undefined value, line 1"),
        ("{{ 'x' * 2000000 }}", "the chat template makes 2000000 characters of it, at most 1048576"),
        (
            "{% include 'chat' %}",
            'the chat template fails: could not render include: error in "chat", line 1',
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "the chat template fails: engine ran out of fuel, line 1",
        ),
    ],
    ids=["refuses", "undefined", "python", "output", "recursion", "endless"],
)
def test_templates_that_fail(source: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(ChatError) as error:
        ChatTemplate(source, {}, where="here").render([Message("user", "a")])
    assert str(error.value) == message
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "source", ["{{ strftime_now() }}", "{{ raise_exception() }}", "{{ messages | tojson(separators=1) }}"]
)
def test_functions_that_are_called_wrongly_fail(source: str) -> None:
    with pytest.raises(ChatError, match=r"^the chat template fails: "):
        ChatTemplate(source, {}, where="here").render([Message("user", "a")])


def test_a_special_token_cannot_take_the_place_of_the_messages() -> None:
    with pytest.raises(ChatError, match=r"^the chat template fails: "):
        ChatTemplate("x", {"messages": "y"}, where="here").render([Message("user", "a")])


def test_json_is_indented_by_little() -> None:
    template = ChatTemplate("{{ messages | tojson(indent=300000000) }}", {}, where="here")
    assert len(template.render([Message("user", "a")])) < 10_000


def test_the_more_a_template_may_write_at_once_the_less_often_it_may() -> None:
    loops = (
        "{% for i in range(3000) %}{% for j in range(30) %}{{ messages[0].content }}{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(loops, {}, where="here")
    assert len(template.render([Message("user", "a")])) == 90_000
    with pytest.raises(ChatError, match="engine ran out of fuel"):
        template.render([Message("user", "a" * 100_000)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "here: not a chat template: syntax error: unexpected end of block, line 1"),
        ("x" * 65537, "here: a chat template of more than 64 kB"),
    ],
    ids=["syntax", "size"],
)
def test_what_is_no_template(source: str, message: str) -> None:
    with pytest.raises(BundleError) as error:
        ChatTemplate(source, {}, where="here")
    assert error.value.message == message


def test_a_template_cannot_change_what_it_is_given() -> None:
    messages = [Message("user", "a")]
    template = ChatTemplate("{{ messages.append(1) }}{{ messages | length }}", {}, where="here")
    assert template.render(messages) == template.render(messages)
    assert messages == [Message("user", "a")]


def test_the_template_of_a_bundle(tmp_path: Path) -> None:
    path = tiny_causal.write_causal(
        tmp_path / "toy", chat_template="{{ bos_token }}{{ messages[0].content }}"
    )
    template = read_chat_template(read_bundle(path))
    assert template is not None
    assert template.render([Message("user", "é")]) == "<s>é"
    assert (
        read_chat_template(read_bundle(tiny_causal.write_causal(tmp_path / "raw", chat_template=None)))
        is None
    )


def test_a_template_in_another_encoding(tmp_path: Path) -> None:
    path = tiny_causal.write_causal(tmp_path / "toy")
    manifest = read_bundle(path).manifest
    (path / CHAT_TEMPLATE_NAME).write_bytes(b"\xff")
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match=r"chat_template\.jinja: 'utf-8' codec can't decode"):
        read_chat_template(read_bundle(path))
