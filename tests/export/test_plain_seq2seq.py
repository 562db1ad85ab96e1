"""The plain graphs of encoder-decoders under the engine's searches, against transformers' `generate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lmcli.engine.seq2seq import Hypothesis, Seq2Seq, Source
from lmcli.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from lmcli.export.plain_seq2seq import build_plain_seq2seq, longest_source
from lmcli.export.quantize import POSITIONS, quantize
from tests.export.seq2seq_models import EOS, PAD, START, config_of, generate, open_engine, random_sources

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

_BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "scale_embedding": True,
}
_T5 = {
    "d_model": 64,
    "d_kv": 12,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_GPT2 = {"n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "blenderbot": ("blenderbot", _BART),
    "blenderbot-small": ("blenderbot-small", _BART),
    # Sparse attention begins above (5 + 2) * 8 tokens.
    "bigbird_pegasus": ("bigbird_pegasus", _BART | {"block_size": 8, "num_random_blocks": 1}),
    "longt5": ("longt5", _T5 | {"local_radius": 7}),
    "longt5 with global tokens": (
        "longt5",
        _T5 | {"local_radius": 5, "encoder_attention_type": "transient-global", "global_block_size": 4},
    ),
    "t5 with narrow heads": ("t5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", _BART),
}
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "two BERTs": (("bert", _BERT), ("bert", _BERT)),
    "two RoBERTas": (("roberta", _BERT), ("roberta", _BERT)),
    "BERT and GPT-2": (("bert", _BERT), ("gpt2", _GPT2)),
}
SPECIAL = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 1, "decoder_start_token_id": START}
VOCAB_SIZE = 120
LENGTHS = (1, 2, 5, 8, 9, 13, 17, 17, 17, 17, 24, 33, 40)

Graphs = tuple[onnx.ModelProto, onnx.ModelProto]


def make_model(name: str) -> Any:
    """A model of random weights that are large enough to decide something."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, EncoderDecoderConfig

    sizes = {"vocab_size": VOCAB_SIZE, **SPECIAL}
    if name in PAIRS:
        encoder, decoder = (AutoConfig.for_model(kind, **sizes, **more) for kind, more in PAIRS[name])
        config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **SPECIAL)
    else:
        kind, more = MODELS[name]
        config = AutoConfig.for_model(kind, **sizes, **more)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    for part, parameter in model.named_parameters():
        if parameter.dim() > 1:
            # T5 does not scale the products of queries and keys, so their weights are small.
            torch.nn.init.normal_(parameter, std=0.05 if part.endswith("Attention.q.weight") else 0.2)
    for settings in (model.generation_config, getattr(model, "decoder", model).generation_config or model):
        settings.forced_eos_token_id = None
    model.generation_config.update(**SPECIAL, num_beams=1, length_penalty=1.0, early_stopping=False)
    model.generation_config.max_length = model.generation_config.min_length = None
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Graphs]]:
    """A model and its graphs, built once."""
    found: dict[str, tuple[Any, Graphs]] = {}

    def build(name: str) -> tuple[Any, Graphs]:
        if name not in found:
            model = make_model(name)
            found[name] = model, build_plain_seq2seq(model, scratch=tmp_path_factory.mktemp("scratch"))
        return found[name]

    return build


def sources() -> list[Source]:
    """Of equal length, too, with outputs that end at different steps."""
    rows = random_sources(LENGTHS)
    return [row._replace(max_new_tokens=20 - 4 * (index % 3)) for index, row in enumerate(rows)]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("name", [*MODELS, *PAIRS])
def test_tokens_and_scores_are_those_of_transformers(
    name: str, num_beams: int, tmp_path: Path, built: Callable[[str], tuple[Any, Graphs]]
) -> None:
    model, graphs = built(name)
    with open_engine(tmp_path, graphs) as engine:
        endless = check_outputs(engine, model, num_beams, ends=(EOS,))
        assert len({tuple(output.token_ids) for output in endless}) > 4, "the sources decide the outputs"
        # Random weights hardly ever give the end, so a token that some outputs have ends them here.
        ending = check_outputs(engine, model, num_beams, ends=(EOS, frequent(endless)))
        assert num_beams > 1 or any(output.is_complete for output in ending)


def check_outputs(engine: Seq2Seq, model: Any, num_beams: int, ends: tuple[int, ...]) -> list[Hypothesis]:
    """Compare the outputs of the sources together, and of each alone, with those of transformers."""
    config = config_of(num_beams=num_beams, eos_token_ids=ends)
    together = [found[0] for found in engine.generate(sources(), config)]
    for source, ours in zip(sources(), together, strict=True):
        ((alone,),) = engine.generate([source], config)
        ((theirs, score),) = generate(
            model,
            [source.input_ids],
            num_beams=num_beams,
            max_new_tokens=source.max_new_tokens,
            eos_token_id=ends,
        )[0]
        assert ours.token_ids == alone.token_ids == theirs
        if num_beams > 1:
            assert (ours.score, alone.score) == pytest.approx((score, score), abs=1e-4)
    return together


def frequent(outputs: list[Hypothesis]) -> int:
    """The token that about half of the outputs have."""
    counts = Counter(token for output in outputs for token in set(output.token_ids))
    return min(counts, key=lambda token: abs(counts[token] - len(outputs) / 2))


@pytest.mark.parametrize("name", [*MODELS, *PAIRS])
def test_int8_takes_the_weights_and_changes_little(
    name: str, tmp_path: Path, built: Callable[[str], tuple[Any, Graphs]]
) -> None:
    _, graphs = built(name)
    reduced = tuple(onnx.ModelProto.FromString(graph.SerializeToString()) for graph in graphs)
    for graph in reduced:
        quantize(graph)
        assert float_products(graph) == []
    (tmp_path / "exact").mkdir()
    (tmp_path / "int8").mkdir()
    tokens = [START, 9, 30, 77, 41]
    with (
        open_engine(tmp_path / "exact", graphs) as exact,
        open_engine(tmp_path / "int8", (reduced[0], reduced[1])) as int8,
    ):
        for source in sources():
            ours, theirs = (engine.logits([source.input_ids], tokens) for engine in (int8, exact))
            error = np.sqrt(((ours - theirs) ** 2).mean() / theirs.var())
            assert error < 0.2, f"{error} for {len(source.input_ids)} tokens"


def float_products(graph: onnx.ModelProto) -> list[str]:
    """The products with weights in float."""
    weights = {item.name for item in graph.graph.initializer if len(item.dims) == 2}
    kinds = {"Gemm", "MatMul", "FusedMatMul"}
    return [node.name for node in graph.graph.node if node.op_type in kinds and weights & set(node.input)]


def test_graphs_are_of_the_form_that_the_engine_drives(built: Callable[[str], tuple[Any, Graphs]]) -> None:
    _, (encoder, decoder) = built("BERT and GPT-2")
    caches = {
        kind: [f"{kind}.{layer}.{part}" for layer in range(3) for part in ("key", "value")]
        for kind in ("past", "cross", "present")
    }
    assert [item.name for item in encoder.graph.input] == ["input_ids"]
    assert [item.name for item in encoder.graph.output] == caches["cross"]
    fed = {item.name for item in decoder.graph.input}
    assert fed == {"input_ids", "parents", "k", *caches["past"], *caches["cross"]}
    chosen = ["top_logits", "top_ids", "log_normalizer"]
    assert [item.name for item in decoder.graph.output] == [*chosen, *caches["present"]]
    heads = {
        item.name: [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        for item in [*encoder.graph.output, *decoder.graph.input]
    }
    assert heads["cross.2.value"] == heads["past.2.value"] == [0, 4, 0, 24]


def test_tables_of_positions_stay_in_float(built: Callable[[str], tuple[Any, Graphs]]) -> None:
    model, graphs = built("blenderbot")
    table = model.get_decoder().embed_positions.weight.detach().numpy()
    (found,) = (
        numpy_helper.to_array(item) for item in graphs[1].graph.initializer if item.name.startswith(POSITIONS)
    )
    assert np.array_equal(found, table)


def test_the_model_is_as_it_was(tmp_path: Path) -> None:
    model = make_model("t5 with narrow heads")
    settings = model.config.to_dict(), model.encoder.config.to_dict(), model.decoder.config.to_dict()
    build_plain_seq2seq(model, scratch=tmp_path)
    after = model.config.to_dict(), model.encoder.config.to_dict(), model.decoder.config.to_dict()
    assert after == settings


def test_sparse_attention_limits_the_sources(built: Callable[[str], tuple[Any, Graphs]]) -> None:
    from transformers import AutoConfig, EncoderDecoderConfig

    sizes = {"num_random_blocks": 3, "block_size": 64}
    sparse = AutoConfig.for_model("bigbird_pegasus", attention_type="block_sparse", **sizes)
    full = AutoConfig.for_model("bigbird_pegasus", attention_type="original_full", **sizes)
    bird = AutoConfig.for_model("big_bird", attention_type="block_sparse", **sizes)
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(bird, AutoConfig.for_model("roberta"))
    assert [longest_source(config) for config in (sparse, full, pair)] == [704, None, 704]
    assert longest_source(built("blenderbot")[0].config) is None


def test_up_to_the_limit_sparse_attention_is_full(
    tmp_path: Path, built: Callable[[str], tuple[Any, Graphs]]
) -> None:
    import torch

    model, graphs = built("bigbird_pegasus")
    limit, tokens = longest_source(model.config), [START, 9, 30, 77]
    assert limit == 56
    differences = []
    with open_engine(tmp_path, graphs) as engine, torch.inference_mode():
        for (source,) in (random_sources((limit + more,)) for more in (1, 0)):
            model.get_encoder().set_attention_type("block_sparse")  # a short source has changed it for good
            rows = torch.from_numpy(source.input_ids)[None], torch.tensor([tokens])
            theirs = model(input_ids=rows[0], decoder_input_ids=rows[1]).logits.numpy()
            differences.append(np.abs(engine.logits([source.input_ids], tokens) - theirs).max())
    assert differences[0] > 0.1
    assert differences[1] < 1e-4


def test_what_optimum_does_not_know_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    sizes = _BART | {"max_encoder_position_embeddings": 64, "attention_window": 8}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("led", vocab_size=VOCAB_SIZE, **sizes))
    with pytest.raises(ExportError, match="optimum cannot export led"):
        build_plain_seq2seq(model, scratch=tmp_path)
