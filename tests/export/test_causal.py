"""The fast graphs of causal models, and the engine that runs them, against transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.engine.causal import Causal
from lmcli.engine.generation import GenerationConfig
from lmcli.engine.prefixes import Prefix, PrefixStore
from lmcli.engine.search import Hypothesis, Source
from lmcli.errors import ExportError
from lmcli.export.causal_shape import shape_of
from lmcli.export.reference import logits as reference_logits
from lmcli.export.rotate import orthogonal, rotate
from tests.export.causal_models import (
    EOS,
    MODELS,
    build,
    make_model,
    random_prompts,
    shape,
    weights_of,
)

pytestmark = pytest.mark.export
LENGTHS = [3, 17, 9, 30, 9, 2, 1, 25]


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_model("llama")


@pytest.fixture(scope="module")
def engine(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Causal]:
    with build(llama, tmp_path_factory.mktemp("llama"), threads=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def int8(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Causal]:
    with build(llama, tmp_path_factory.mktemp("int8"), int8=True, threads=2) as engine:
        yield engine


def config_of(**settings: Any) -> GenerationConfig:
    return GenerationConfig(eos_token_ids=(EOS,), **({"max_new_tokens": 20} | settings))


def sources_of(prompts: list[Any], max_new_tokens: int = 20) -> list[Source]:
    return [Source(prompt, max_new_tokens, seed=index) for index, prompt in enumerate(prompts)]


def theirs(model: Any, prompts: list[Any], **settings: Any) -> list[list[int]]:
    """What transformers' generate adds to each prompt, without the end."""
    import torch

    found = []
    for prompt in prompts:
        row = torch.from_numpy(prompt)[None]
        settings = {"do_sample": False, "max_new_tokens": 20, "top_k": None, "top_p": None} | settings
        output = model.generate(row, attention_mask=torch.ones_like(row), **settings)[0].tolist()
        new = [*output[len(prompt) :], EOS]
        found.append(new[: new.index(EOS)])
    return found


def tokens(found: list[list[Hypothesis]]) -> list[list[int]]:
    return [hypotheses[0].token_ids for hypotheses in found]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import torch

    model = make_model(name)
    (prompt,) = random_prompts([40])
    with torch.inference_mode():
        expected = model(torch.from_numpy(prompt)[None]).logits[0].numpy()
    scale = np.abs(expected).max()
    with build(model, tmp_path) as engine:
        assert np.abs(engine.logits(prompt) - expected).max() < 1e-4 * scale
    assert np.abs(reference_logits(weights_of(model), shape(model), prompt) - expected).max() < 1e-4 * scale


@pytest.mark.parametrize("name", MODELS)
def test_greedy_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model, prompts = make_model(name), random_prompts([12, 5, 30])
    with build(model, tmp_path) as engine:
        assert tokens(engine.generate(sources_of(prompts), config_of())) == theirs(model, prompts)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in {"gemma2", "gemma3"}])
def test_a_rotated_model_is_the_same_model(name: str) -> None:
    model = make_model(name)
    (prompt,) = random_prompts([40])
    weights, facts = weights_of(model), shape(model)
    rotated = rotate(weights, facts)
    assert set(weights) <= set(rotated)
    assert all(rotated[key].shape == value.shape for key, value in weights.items())
    assert len(rotated) == len(list(rotated)) == len(set(weights) | {"lm_head.weight"})
    expected = reference_logits(weights, facts, prompt)
    difference = np.abs(reference_logits(rotated, facts, prompt) - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()


def test_models_with_norms_behind_their_layers_stay_as_they_are() -> None:
    for name in ("gemma2", "gemma3"):
        model = make_model(name)
        weights = weights_of(model)
        assert rotate(weights, shape(model)) is weights


@pytest.mark.parametrize("int8", [False, True])
def test_threads_that_share_operators_change_nothing(tmp_path: Path, *, int8: bool) -> None:
    model = make_model("llama", hidden_size=512, intermediate_size=2048)  # large enough to be divided
    prompts = random_prompts([5, 90, 200])
    found = []
    for threads_each in (1, 2, 3):
        with build(model, tmp_path, int8=int8, threads_each=threads_each) as engine:
            found.append([engine.logits(prompt) for prompt in prompts])
            found[-1] += [
                np.array([hypothesis.score, *hypothesis.token_ids])
                for [hypothesis] in engine.generate(sources_of(prompts), config_of())
            ]
    for others in found[1:]:
        assert all(map(np.array_equal, found[0], others))


@pytest.mark.parametrize("size", [1, 2, 3, 9, 64, 576, 896])
def test_the_rotation_is_orthogonal_and_spreads(size: int) -> None:
    matrix = orthogonal(size)
    assert np.allclose(matrix @ matrix.T, np.eye(size))
    assert np.abs(matrix).max() <= np.sqrt(2 / size) * np.sqrt(1.0001) or size < 3


@pytest.mark.parametrize("name", MODELS)
def test_int8_is_close(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    (prompt,) = random_prompts([60])
    with build(model, tmp_path) as exact:
        expected = exact.logits(prompt)
    with build(model, tmp_path, int8=True) as reduced:
        error = reduced.logits(prompt) - expected
    assert 0 < np.sqrt((error**2).mean()) < 0.1 * expected.std()


SETTINGS = [
    {},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 2, "no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2, "min_new_tokens": 10},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_searches_are_those_of_transformers(settings: dict[str, Any], llama: Any, engine: Causal) -> None:
    prompts = random_prompts(LENGTHS)
    ours = tokens(engine.generate(sources_of(prompts), config_of(**settings)))
    assert ours == theirs(llama, prompts, **settings)


@pytest.mark.parametrize("settings", [*SETTINGS, {"do_sample": True, "frequency_penalty": 0.5}], ids=str)
def test_an_output_depends_on_its_prompt_alone(settings: dict[str, Any], int8: Causal) -> None:
    """To the bit: whatever the neighbours are, and whatever was read before."""
    config = config_of(**settings)
    sources = sources_of(random_prompts([20, 33, 21, 28] * 12, same=18))
    together = int8.generate(sources, config)
    for index in (0, 7, 30):
        assert int8.generate([sources[index]], config) == [together[index]]
    assert int8.generate(sources[::-1], config)[::-1] == together


def test_a_common_beginning_is_read_once(llama: Any, tmp_path: Path) -> None:
    prompts = random_prompts([60] * 10, same=50)
    with build(llama, tmp_path) as engine:
        engine.generate(sources_of(prompts), config_of())
        computed, reused = engine.num_tokens
        assert computed == 59 + 9 * 9
        assert reused == 9 * 50
        engine.generate(sources_of(prompts[-1:]), config_of())
        assert engine.num_tokens[0] <= computed + 9  # what was held is still there


def test_a_prompt_that_continues_an_output_reads_only_what_is_new(int8: Causal) -> None:
    (prompt,) = random_prompts([30])
    config = config_of(suppress_tokens=(EOS,))
    [[first]] = int8.generate(sources_of([prompt]), config)
    before = int8.num_tokens[0]
    longer = np.concatenate([prompt, first.token_ids, [7, 8, 9]])
    [[second]] = int8.generate(sources_of([longer]), config)
    assert int8.num_tokens[0] - before <= 4
    int8.generate(sources_of(random_prompts([40] * 70)), config)  # now all rows hold something else
    assert int8.generate(sources_of([longer]), config) == [[second]]


def test_scores_are_log_probabilities(llama: Any, engine: Causal) -> None:
    import torch

    prompts = random_prompts([12, 30, 1, 12], same=1)
    choices = [np.array([5]), np.array([5, 6]), np.array([9, 8, 7])]
    for prompt, found in zip(prompts, engine.score(prompts, [choices] * 4), strict=True):
        for choice, scores in zip(choices, found, strict=True):
            row = torch.from_numpy(np.concatenate([prompt, choice]))[None]
            with torch.inference_mode():
                expected = llama(row).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            wanted = expected[np.arange(len(choice)), choice].numpy()
            assert scores.shape == choice.shape
            assert np.abs(scores - wanted).max() < 1e-4


def test_scores_depend_on_the_prompt_alone(int8: Causal) -> None:
    prompts = random_prompts([20, 33, 21, 28] * 5, same=18)
    choices = [[np.array([5, 6]), np.array([7])]] * len(prompts)
    together = int8.score(prompts, choices)
    for index, prompt in enumerate(prompts):
        [alone] = int8.score([prompt], choices[:1])
        assert all(np.array_equal(one, other) for one, other in zip(alone, together[index], strict=True))


def test_an_output_ends_with_a_stop_string(engine: Causal) -> None:
    prompts = random_prompts(LENGTHS)
    free = engine.generate(sources_of(prompts), config_of(suppress_tokens=(EOS,)))
    wanted = [chr(0x4E00 + hypotheses[0].token_ids[7]) for hypotheses in free[:2]]
    config = config_of(suppress_tokens=(EOS,), stop_strings=tuple(wanted))
    for [stopped], [whole] in zip(engine.generate(sources_of(prompts), config), free, strict=True):
        count = len(stopped.token_ids)
        assert stopped.token_ids == whole.token_ids[:count]
        is_stop = [chr(0x4E00 + token) in wanted for token in whole.token_ids]
        assert count == (is_stop.index(True) + 1 if any(is_stop) else 20)
        assert stopped.is_complete == any(is_stop)


def test_a_stop_string_may_span_tokens(engine: Causal) -> None:
    (prompt,) = random_prompts([9])
    [[free]] = engine.generate(sources_of([prompt]), config_of(suppress_tokens=(EOS,)))
    stop = "".join(chr(0x4E00 + token) for token in free.token_ids[4:7])
    config = config_of(suppress_tokens=(EOS,), stop_strings=(stop,))
    [[stopped]] = engine.generate(sources_of([prompt]), config)
    assert stopped.token_ids == free.token_ids[:7]


def test_a_listener_hears_each_token(engine: Causal) -> None:
    heard: dict[int, list[int]] = {index: [] for index in range(len(LENGTHS))}
    sources = sources_of(random_prompts(LENGTHS))
    found = engine.generate(sources, config_of(), listen=lambda number, token: heard[number].append(token))
    assert [heard[index] for index in range(len(LENGTHS))] == tokens(found)


def test_samples_differ_by_seed_only(engine: Causal) -> None:
    (prompt,) = random_prompts([9])
    config = config_of(do_sample=True, temperature=2.0, num_return_sequences=4)
    [first] = engine.generate([Source(prompt, 20, seed=5)], config)
    assert len({tuple(hypothesis.token_ids) for hypothesis in first}) == 4
    assert engine.generate([Source(prompt, 20, seed=5)], config) == [first]
    assert engine.generate([Source(prompt, 20, seed=6)], config) != [first]


def test_min_p_leaves_the_likely_tokens(engine: Causal) -> None:
    prompts = random_prompts(LENGTHS)
    greedy = engine.generate(sources_of(prompts), config_of())
    sharp = config_of(do_sample=True, top_k=0, min_p=0.999)
    assert engine.generate(sources_of(prompts), sharp) == greedy


def test_a_frequency_penalty_ends_repetition(engine: Causal) -> None:
    prompts = random_prompts(LENGTHS)
    config = config_of(frequency_penalty=100.0, suppress_tokens=(EOS,))
    for [hypothesis] in engine.generate(sources_of(prompts), config):
        assert len(set(hypothesis.token_ids)) == len(hypothesis.token_ids) == 20


def test_closing_the_engine_stops_what_is_under_way(llama: Any, tmp_path: Path) -> None:
    with build(llama, tmp_path, threads=2) as engine:
        job = engine.submit(sources_of(random_prompts([9] * 3000)), config_of(num_beams=4))
    assert job.num_left > 1500


_WINDOWS = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "phi"},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"hidden_act": "relu6"},
        {"head_dim": 20},
        _WINDOWS | {"layer_types": ["full_attention", "chunked_attention"] * 2},
        _WINDOWS | {"layer_types": None, "model_type": "smollm3"},
        {"use_bidirectional_attention": True},
    ],
    ids=str,
)
def test_what_has_no_fast_graph_is_known(change: dict[str, Any]) -> None:
    config = make_model("qwen2").config.to_dict()
    assert shape_of(config) is not None
    assert shape_of(config | change) is None


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": "many"}, {"num_attention_heads": 0}, {"hidden_size": None}],
    ids=str,
)
def test_impossible_values_are_refused(change: dict[str, Any]) -> None:
    config = make_model("qwen2").config.to_dict()
    with pytest.raises(ExportError, match="qwen2"):
        shape_of(config | change)


def test_a_stored_prefix_gives_the_same_outputs(llama: Any, tmp_path: Path) -> None:
    """To the bit, and it saves the work."""
    store = PrefixStore(tmp_path / "prefixes")
    prompts = random_prompts([60, 58, 61, 60], same=50)
    choices = [[np.array([5, 6]), np.array([7])]] * len(prompts)
    with build(llama, tmp_path, int8=True) as engine:
        expected = engine.generate(sources_of(prompts), config_of()), engine.score(prompts, choices)
        without = engine.num_tokens[0]
    for _ in range(2):
        with build(llama, tmp_path, int8=True, prefixes=store) as engine:
            found = engine.generate(sources_of(prompts), config_of())
            scores = engine.score(prompts, choices)
            computed = engine.num_tokens[0]
        assert found == expected[0]
        assert all(
            np.array_equal(one, other)
            for ours, theirs in zip(scores, expected[1], strict=True)
            for one, other in zip(ours, theirs, strict=True)
        )
    assert computed == without - 50


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lone_prompt_is_stored(llama: Any, tmp_path: Path, threads: int) -> None:
    store = PrefixStore(tmp_path / "prefixes")
    prompts = random_prompts([150])  # longer than the rows of a thread that had nothing to do
    found = []
    for _ in range(2):
        with build(llama, tmp_path, threads=threads, prefixes=store) as engine:
            found += [engine.generate(sources_of(prompts), config_of())]
            _, reused = engine.num_tokens
    assert found[0] == found[1]
    assert reused >= len(prompts[0]) - 3


def test_a_prefix_of_another_model_is_not_used(llama: Any, tmp_path: Path) -> None:
    store = PrefixStore(tmp_path / "prefixes")
    prompts = random_prompts([60, 60], same=50)
    store.save(Prefix(prompts[0][:50], np.ones((3, 1, 50, 4), np.float32)))
    with build(llama, tmp_path, prefixes=store) as engine:
        found = engine.generate(sources_of(prompts), config_of())
    with build(llama, tmp_path) as engine:
        assert found == engine.generate(sources_of(prompts), config_of())
