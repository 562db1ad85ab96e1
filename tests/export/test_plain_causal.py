"""The plain graphs of causal models, and those for CUDA, under the engine's searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lmcli.engine import growing
from lmcli.engine.causal import Causal
from lmcli.engine.devices import Device
from lmcli.engine.growing import begin_together
from lmcli.engine.search import Source
from lmcli.engine.session import Session
from lmcli.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from lmcli.export.causal import build_causal
from lmcli.export.layers import Layers
from lmcli.export.plain_causal import build_plain_causal, longest_text
from lmcli.export.quantize import POSITIONS, quantize
from tests.export import causal_models
from tests.export.causal_checkpoints import PLAIN, make_model
from tests.export.causal_models import VOCAB_SIZE, NoTokenizer, random_prompts
from tests.export.test_causal import config_of, sources_of, theirs, tokens

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
LENGTHS = [1, 17, 17, 30, 9, 40]
Built = tuple[Any, onnx.ModelProto]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """A model and its graph, built once."""
    found: dict[str, Built] = {}

    def build(name: str) -> Built:
        if name not in found:
            model = make_model(PLAIN[name], VOCAB_SIZE)
            model.generation_config.eos_token_id = causal_models.EOS
            found[name] = model, build_plain_causal(model, scratch=tmp_path_factory.mktemp("scratch"))
        return found[name]

    return build


def open_engine(graph: onnx.ModelProto, folder: Path) -> Causal:
    path = folder / "model.onnx"
    onnx.save(graph, path)
    return Causal(Session(path, Device("cpu")), NoTokenizer(), vocab_size=VOCAB_SIZE, threads=2)


@pytest.mark.parametrize("name", PLAIN)
def test_outputs_and_scores_are_those_of_transformers(
    name: str, tmp_path: Path, built: Callable[[str], Built]
) -> None:
    model, graph = built(name)
    with open_engine(graph, tmp_path) as engine:
        check(engine, model)


@pytest.mark.parametrize(
    "name", ["llama with biases", "mistral with a window", "qwen3", "gemma", "gemma2", "gemma3"]
)
def test_graphs_for_cuda_give_the_same(name: str, tmp_path: Path) -> None:
    model = causal_models.make_model(name)
    layers = Layers(causal_models.weights_of(model))
    shape = causal_models.shape(model)
    graph = build_causal(layers, shape, context_length=causal_models.CONTEXT, in_place=False)
    with open_engine(graph, tmp_path) as engine:
        check(engine, model)


def check(engine: Causal, model: Any) -> None:
    """Outputs of several searches, together and alone, and scores of given continuations."""
    prompts = random_prompts(LENGTHS)
    expected = logits_of(model, prompts[-1])
    assert np.abs(engine.logits(prompts[-1]) - expected).max() < 1e-4 * np.abs(expected).max()
    for settings in ({}, {"num_beams": 3}, {"repetition_penalty": 1.5}):
        found = tokens(engine.generate(sources_of(prompts), config_of(**settings)))
        assert found == theirs(model, prompts, **settings)
    config = config_of(do_sample=True, temperature=2.0, num_return_sequences=2)
    samples = engine.generate(sources_of(prompts), config)
    for source, together in zip(sources_of(prompts), samples, strict=True):
        [alone] = engine.generate([source], config)
        assert [sample.token_ids for sample in alone] == [sample.token_ids for sample in together]
    assert len({tuple(sample.token_ids) for found in samples for sample in found}) > len(prompts)
    check_scores(engine, model, prompts)


def check_scores(engine: Causal, model: Any, prompts: list[Any]) -> None:
    choices = [np.array(ids) for ids in ([5], [5, 6], [9, 8, 7], [4, 4, 4])]
    for given in (choices, choices[2:3]):
        for prompt, found in zip(prompts, engine.score(prompts, [given] * len(prompts)), strict=True):
            for choice, scores in zip(given, found, strict=True):
                logits = logits_of(model, np.concatenate([prompt, choice]))[len(prompt) - 1 : -1]
                largest = logits.max(axis=1, keepdims=True)
                normalizer = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
                wanted = (logits - normalizer)[np.arange(len(choice)), choice]
                assert scores.shape == wanted.shape
                assert np.abs(scores - wanted).max() < 1e-4


def logits_of(model: Any, row: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.from_numpy(row)[None]).logits[0].numpy()


@pytest.mark.parametrize("name", PLAIN)
def test_int8_takes_the_weights_and_changes_little(
    name: str, tmp_path: Path, built: Callable[[str], Built]
) -> None:
    model, graph = built(name)
    reduced = onnx.ModelProto.FromString(graph.SerializeToString())
    quantize(reduced)
    weights = {item.name for item in reduced.graph.initializer if len(item.dims) == 2}
    products = [node for node in reduced.graph.node if node.op_type in {"MatMul", "Gemm", "FusedMatMul"}]
    assert [node.name for node in products if weights & set(node.input)] == []
    (prompt,) = random_prompts([60])
    expected = logits_of(model, prompt)
    with open_engine(reduced, tmp_path) as engine:
        error = engine.logits(prompt) - expected
        assert 0 < np.sqrt((error**2).mean()) < 0.1 * expected.std()
        sources = sources_of(random_prompts([20] * 6 + [9, 9]))
        for source, [together] in zip(sources, engine.generate(sources, config_of()), strict=True):
            [[alone]] = engine.generate([source], config_of())
            assert alone.token_ids == together.token_ids
            assert alone.score == pytest.approx(together.score, abs=1e-4)


def test_only_wanted_tokens_reach_the_output_layer(built: Callable[[str], Built]) -> None:
    for name in ("gpt2", "gemma2", "gptj"):
        [gather] = [node for node in built(name)[1].graph.node if "wanted" in node.input]
        [user] = [node for node in built(name)[1].graph.node if gather.output[0] in node.input]
        assert user.op_type in {"MatMul", "Gemm"}


def test_tables_of_positions_stay_in_float(built: Callable[[str], Built]) -> None:
    for name, table in (("gpt2", "transformer.wpe.weight"), ("opt", "model.decoder.embed_positions.weight")):
        model, graph = built(name)
        [found] = [item for item in graph.graph.initializer if item.name.startswith(POSITIONS)]
        assert np.array_equal(numpy_helper.to_array(found), model.state_dict()[table].numpy())


def test_the_model_is_as_it_was(built: Callable[[str], Built], tmp_path: Path) -> None:
    model, _ = built("gpt2")
    settings = model.config.to_dict()
    build_plain_causal(model, scratch=tmp_path)
    assert model.config.to_dict() == settings


def test_a_long_prompt_is_read_in_chunks(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph = built("gpt_neox")
    monkeypatch.setattr(growing, "_CHUNK", 16)
    with open_engine(graph, tmp_path) as engine:
        check(engine, model)
        assert engine.num_tokens[1] == 0


def test_prompts_of_one_length_begin_together() -> None:
    lengths = [3, 600, 3, 100, 600, 3, 3, 3, 1]
    together = begin_together(lengths, 4, on_cuda=False)
    assert together == [[1], [4], [3], [0, 2, 5, 6], [7], [8]]
    assert begin_together([500] * 9, 32, on_cuda=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert begin_together([500] * 9, 32, on_cuda=True) == [list(range(9))]
    assert begin_together([], 0, on_cuda=False) == []


def test_nothing_is_no_work(built: Callable[[str], Built], tmp_path: Path) -> None:
    with open_engine(built("gpt2")[1], tmp_path) as engine:
        assert engine.generate([], config_of()) == []
        assert engine.score([], []) == []


def test_a_listener_and_stop_strings_work_as_ever(built: Callable[[str], Built], tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    prompts = random_prompts([9, 9, 4])
    with open_engine(built("gpt2")[1], tmp_path) as engine:
        config = config_of(suppress_tokens=(causal_models.EOS,))
        free = engine.generate(
            sources_of(prompts), config, listen=lambda number, token: heard.append((number, token))
        )
        for number, [hypothesis] in enumerate(free):
            assert [token for source, token in heard if source == number] == hypothesis.token_ids
        stop = chr(0x4E00 + free[0][0].token_ids[3])
        config = config_of(suppress_tokens=(causal_models.EOS,), stop_strings=(stop,))
        [[stopped]] = engine.generate([Source(prompts[0], 20)], config)
    assert stopped.is_complete
    assert len(stopped.token_ids) <= 4


def test_texts_end_where_positions_begin_to_turn_otherwise() -> None:
    from transformers import AutoConfig

    factors = [1.0] * 8
    scaling = {"type": "longrope", "short_factor": factors, "long_factor": factors}
    phi = AutoConfig.for_model(
        "phi3",
        hidden_size=64,
        num_attention_heads=4,
        rope_scaling=scaling,
        original_max_position_embeddings=64,
        max_position_embeddings=256,
    )
    assert longest_text(phi) == 64
    assert longest_text(AutoConfig.for_model("gpt2", n_positions=77)) == 77
    assert longest_text(AutoConfig.for_model("bloom")) is None


def test_what_optimum_does_not_know_is_refused(tmp_path: Path) -> None:
    model = make_model(("xglm", {"d_model": 64, "num_layers": 1, "attention_heads": 4, "ffn_dim": 64}), 50)
    with pytest.raises(ExportError, match="optimum cannot export xglm"):
        build_plain_causal(model, scratch=tmp_path)
