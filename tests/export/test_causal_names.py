"""The fast graphs of models that are no Llamas, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.export.causal import build_causal
from lmcli.export.causal_names import as_llama, wanted_shapes
from lmcli.export.causal_shape import CausalShape, shape_of
from lmcli.export.layers import Layers, Weights
from lmcli.export.reference import logits as reference_logits
from tests.export.causal_checkpoints import CONTEXT, FAST, make_model
from tests.export.causal_models import EOS, VOCAB_SIZE, random_prompts
from tests.export.test_causal import config_of, sources_of, theirs, tokens
from tests.export.test_plain_causal import logits_of, open_engine

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
OTHERS = [name for name in FAST if name not in {"llama", "qwen2"}]


def make(name: str) -> tuple[Any, Weights, CausalShape]:
    """A model with biases and norms that are not just 0 and 1, its weights and its shape."""
    import torch

    model = make_model(FAST[name], VOCAB_SIZE)
    model.generation_config.eos_token_id = EOS
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.2)
    shape = shape_of(model.config.to_dict())
    assert shape is not None
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    return model, as_llama(weights, model.config.model_type, shape), shape


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_outputs_are_those_of_transformers(name: str, in_place: bool, tmp_path: Path) -> None:
    model, weights, shape = make(name)
    graph = build_causal(Layers(weights), shape, context_length=CONTEXT, in_place=in_place)
    prompts = random_prompts([12, 5, 30, 5, 1])
    expected = logits_of(model, prompts[2])
    with open_engine(graph, tmp_path) as engine:
        assert np.abs(engine.logits(prompts[2]) - expected).max() < 1e-4 * np.abs(expected).max()
        for settings in ({}, {"num_beams": 3}):
            found = tokens(engine.generate(sources_of(prompts), config_of(**settings)))
            assert found == theirs(model, prompts, **settings)


@pytest.mark.parametrize("name", OTHERS)
def test_the_definition_is_that_of_transformers(name: str) -> None:
    model, weights, shape = make(name)
    (prompt,) = random_prompts([40])
    expected = logits_of(model, prompt)
    assert np.abs(reference_logits(weights, shape, prompt) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", FAST)
def test_weights_are_those_that_the_configuration_speaks_of(name: str) -> None:
    model, weights, shape = make(name)
    wanted = wanted_shapes(model.config.to_dict(), shape, weights)
    assert set(weights) - set(wanted) <= {"lm_head.weight"}
    assert len(weights) == len(list(weights))
    assert {key: weights[key].shape for key in wanted} == wanted


def test_names_may_lack_their_first_part() -> None:
    model, weights, shape = make("gpt2")
    bare = {key: value.detach().numpy() for key, value in model.transformer.state_dict().items()}
    found = as_llama(bare, "gpt2", shape)
    assert set(weights) - set(found) == {"lm_head.weight"}
    assert all(np.array_equal(found[key], weights[key]) for key in found)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_head": 8}),
        ("gpt2", {"activation_function": "quick_gelu"}),
        ("gpt_neox", {"rotary_pct": 0.25}),
        ("gpt_neox", {"attention_bias": False}),
        ("gpt_neox", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 32}),
    ],
    ids=str,
)
def test_what_has_no_fast_graph_is_known(name: str, change: dict[str, Any]) -> None:
    config = make_model(FAST[name], VOCAB_SIZE).config.to_dict()
    assert shape_of(config) is not None
    assert shape_of(config | change) is None
