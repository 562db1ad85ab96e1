import dataclasses
from typing import Any

import pytest

from lmcli.cli.commands.generation import Generation
from lmcli.engine.generation import GenerationConfig
from lmcli.errors import UsageError
from lmcli.tasks.generation import GenerationOptions, retry_config

DEFAULTS = GenerationConfig(
    decoder_start_token_id=2,
    eos_token_ids=(0,),
    max_new_tokens=100,
    min_new_tokens=10,
    num_beams=4,
    length_penalty=2.0,
    early_stopping=True,
    no_repeat_ngram_size=3,
    num_return_sequences=2,
)


def changed(**options: Any) -> dict[str, Any]:
    """What the options change of the model's own settings, which give one output."""
    plain = dataclasses.replace(DEFAULTS, num_return_sequences=1)
    config = GenerationOptions(**options).config(DEFAULTS, most_tokens=512)
    before, after = vars(plain), vars(config)
    return {name: after[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {}),
        ({"num_beams": 1}, {"num_beams": 1}),
        ({"length_penalty": 0.0}, {"length_penalty": 0.0}),
        ({"early_stopping": "no"}, {"early_stopping": False}),
        ({"early_stopping": "never"}, {"early_stopping": "never"}),
        ({"early_stopping": "yes"}, {}),
        ({"no_repeat_ngram_size": 0}, {"no_repeat_ngram_size": 0}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"min_new_tokens": 0}, {"min_new_tokens": 0}),
        ({"max_new_tokens": 300}, {"max_new_tokens": 300}),
        ({"max_new_tokens": 1000}, {"max_new_tokens": 512}),
        ({"max_new_tokens": 5}, {"max_new_tokens": 5, "min_new_tokens": 5}),
        ({"nbest": 1}, {}),
        ({"nbest": 3}, {"num_return_sequences": 3}),
        ({"nbest": 6}, {"num_beams": 6, "num_return_sequences": 6}),
        ({"nbest": 2, "num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}),
        ({"sample": True}, {"do_sample": True, "num_beams": 1}),
        (
            {"sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.9, "seed": 3, "nbest": 2},
            {
                "do_sample": True,
                "num_beams": 1,
                "num_return_sequences": 2,
                "temperature": 0.5,
                "top_k": 0,
                "top_p": 0.9,
                "seed": 3,
            },
        ),
    ],
    ids=str,
)
def test_options_take_the_place_of_the_models_settings(
    options: dict[str, Any], found: dict[str, Any]
) -> None:
    assert changed(**options) == found


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"temperature": 0.5}, "--temperature is for sampling", "add --sample"),
        ({"top_k": 0}, "--top-k is for sampling", "add --sample"),
        ({"top_p": 0.5}, "--top-p is for sampling", "add --sample"),
        ({"seed": 0}, "--seed is for sampling", "add --sample"),
        (
            {"sample": True, "num_beams": 2},
            "--sample and --num-beams exclude each other",
            "choose one of the two",
        ),
        (
            {"nbest": 3, "num_beams": 2},
            "--nbest 3 needs 3 beams, not 2",
            "set --num-beams to 3 or more, or leave it out",
        ),
    ],
    ids=str,
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        GenerationOptions(**options)
    assert (error.value.message, error.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_new_tokens": 20, "max_new_tokens": 10}, "at least 20 new tokens, but at most 10"),
        ({"min_new_tokens": 101}, "at least 101 new tokens, but at most 100"),
        ({"sample": True, "temperature": 0.0}, "--temperature is 0.0"),
        ({"sample": True, "top_p": 0.0}, "--top-p is 0.0"),
    ],
    ids=str,
)
def test_values_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        GenerationOptions(**options).config(DEFAULTS, most_tokens=512)
    assert error.value.message == message


@pytest.mark.parametrize(("beams", "again"), [(1, 4), (4, 4), (8, 8)])
def test_a_second_decoding_has_other_settings(beams: int, again: int) -> None:
    config = retry_config(
        dataclasses.replace(DEFAULTS, do_sample=False, num_beams=beams, num_return_sequences=1)
    )
    assert (config.num_beams, config.no_repeat_ngram_size, config.repetition_penalty) == (again, 3, 1.2)


def test_what_was_sampled_is_sampled_again() -> None:
    config = GenerationOptions(sample=True, nbest=65).config(DEFAULTS, most_tokens=512)
    again = retry_config(config)
    assert (again.do_sample, again.num_beams, again.num_return_sequences) == (True, 1, 65)


def test_stricter_rules_than_those_of_a_second_decoding_stay() -> None:
    strict = dataclasses.replace(DEFAULTS, no_repeat_ngram_size=2, repetition_penalty=1.5)
    again = retry_config(strict)
    assert (again.no_repeat_ngram_size, again.repetition_penalty) == (2, 1.5)
    loose = dataclasses.replace(DEFAULTS, no_repeat_ngram_size=5, repetition_penalty=1.1)
    again = retry_config(loose)
    assert (again.no_repeat_ngram_size, again.repetition_penalty) == (3, 1.2)


def test_a_model_that_samples_does_so_only_when_asked() -> None:
    sampling = GenerationConfig(
        decoder_start_token_id=2, eos_token_ids=(0,), max_new_tokens=100, do_sample=True, top_k=7
    )
    assert not GenerationOptions().config(sampling, most_tokens=100).do_sample
    config = GenerationOptions(sample=True).config(sampling, most_tokens=100)
    assert (config.do_sample, config.top_k) == (True, 7)


def test_the_flags_are_the_options() -> None:
    flags = {item.name: item.default for item in dataclasses.fields(Generation)}
    assert flags == {item.name: item.default for item in dataclasses.fields(GenerationOptions)}
