"""GGUF files: configuration, weights and blocks are those of the models they were written from."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from onnx import TensorProto

from lmcli.errors import ExportError
from lmcli.export.causal_shape import shape_of
from lmcli.export.gguf import GgufFile, read_gguf
from lmcli.export.gguf_blocks import Blocks
from lmcli.export.graph import MICROSOFT, Array, Graph
from lmcli.export.reference import logits as reference_logits
from tests.export.gguf_files import LLAMA, Floats, header, quantize, random_weights, strings, text, write_gguf

KINDS = [
    *(Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1),
    *(Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS, Kind.MXFP4),
]
BLOCK_KINDS = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]


def by_name(kind: Kind) -> str:
    return str(kind.name)


def assert_weights(file: GgufFile, wanted: Mapping[str, Floats]) -> None:
    assert file.weights.keys() == wanted.keys()
    for name, weight in file.weights.items():
        assert weight.dtype == np.float32
        assert weight.flags.owndata
        np.testing.assert_array_equal(weight, wanted[name], err_msg=name)


def test_the_configuration(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    assert read_gguf(tmp_path / "tiny.gguf").config == LLAMA | {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_the_weights_of_each_type(kind: Kind, tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    file = read_gguf(tmp_path / "tiny.gguf")
    assert_weights(file, wanted)
    assert "lm_head.weight" not in file.weights


def test_unquantized_weights_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    weights = random_weights(tied=False)
    biases = {name: len(weights[name]) for name in weights if "q_proj" in name or "k_proj" in name}
    weights |= {
        name.replace("weight", "bias"): np.arange(size, dtype=np.float32) for name, size in biases.items()
    }
    write_gguf(tmp_path / "tiny.gguf", weights=weights)
    file = read_gguf(tmp_path / "tiny.gguf")
    assert_weights(file, weights)
    assert (file.config["tie_word_embeddings"], file.config["attention_bias"]) == (False, True)


# Blocks


@pytest.mark.parametrize("kind", BLOCK_KINDS, ids=by_name)
def test_blocks_are_the_weights_to_the_bit(kind: Kind, tmp_path: Path) -> None:
    weights = random_weights()
    weights["model.layers.0.self_attn.k_proj.weight"][:, :64] = 0.5  # blocks of one value
    weights["model.layers.0.self_attn.v_proj.weight"][:] = 0
    write_gguf(tmp_path / "tiny.gguf", weights=weights, kind=kind)
    file = read_gguf(tmp_path / "tiny.gguf")
    for name, weight in file.weights.items():
        blocks = file.blocks(name)
        assert (blocks is None) == (weight.ndim == 1)
        if blocks is not None:
            np.testing.assert_array_equal(blocks.dequantize(), weight, err_msg=name)
            num_rows, num_columns = weight.shape
            assert blocks.values.shape == (num_rows, num_columns // 32, 4 * blocks.bits)
            assert blocks.scales.shape == (num_rows, num_columns // 32)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BLOCK_KINDS], ids=by_name)
def test_other_types_have_no_blocks(kind: Kind, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", kind=kind)
    assert read_gguf(tmp_path / "tiny.gguf").blocks("model.layers.0.mlp.up_proj.weight") is None


def test_a_weight_that_is_not_there_has_no_blocks(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q8_0)
    assert read_gguf(tmp_path / "tiny.gguf").blocks("lm_head.weight") is None


def product(x: Floats, blocks: Blocks, *, accuracy_level: int) -> Array:
    """What ONNX Runtime makes of x @ weight.T, with offsets apart."""
    import onnxruntime as ort

    graph = Graph()
    num_rows, num_blocks = blocks.scales.shape
    result = graph.op(
        "MatMulNBits",
        *("x", graph.constant(blocks.values), graph.constant(blocks.scales)),
        domain=MICROSOFT,
        K=num_blocks * blocks.block_size,
        N=num_rows,
        bits=blocks.bits,
        block_size=blocks.block_size,
        accuracy_level=accuracy_level,
    )
    if blocks.offsets is not None:
        parts = graph.op("Reshape", "x", graph.constant([-1, num_blocks, blocks.block_size]))
        sums = graph.op("ReduceSum", parts, graph.constant([2]), keepdims=0)
        result = graph.op("Add", result, graph.op("MatMul", sums, graph.constant(blocks.offsets.T.copy())))
    result = graph.op("Identity", result, output="y")
    inputs = {"x": (TensorProto.FLOAT, ["rows", x.shape[1]])}
    model = graph.model(inputs=inputs, outputs={"y": (TensorProto.FLOAT, ["rows", num_rows])})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize(("accuracy_level", "tolerance"), [(0, 1e-5), (4, 2e-2)])
@pytest.mark.parametrize("kind", BLOCK_KINDS, ids=by_name)
def test_matmulnbits_takes_the_blocks(
    kind: Kind, accuracy_level: int, tolerance: float, tmp_path: Path
) -> None:
    weights = random_weights()
    weights["model.layers.1.self_attn.q_proj.weight"][3] = 0.25
    write_gguf(tmp_path / "tiny.gguf", weights=weights, kind=kind)
    file = read_gguf(tmp_path / "tiny.gguf")
    x = np.random.default_rng(1).standard_normal((5, 256), dtype=np.float32)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"):
        blocks = file.blocks(f"model.layers.1.{part}.weight")
        assert blocks is not None
        wanted = x @ file.weights[f"model.layers.1.{part}.weight"].T
        found = product(x, blocks, accuracy_level=accuracy_level)
        assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()


# What llama.cpp calls a Llama, and how positions are scaled


def test_a_window_makes_it_a_mistral(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", changes={"llama.attention.sliding_window": 64})
    config = read_gguf(tmp_path / "tiny.gguf").config
    assert [config[key] for key in ("model_type", "architectures", "sliding_window")] == [
        "mistral",
        ["MistralForCausalLM"],
        64,
    ]


def test_what_the_file_need_not_say(tmp_path: Path) -> None:
    left_out = ["attention.key_length", "attention.value_length", "attention.head_count_kv", "rope.freq_base"]
    config = LLAMA | {"num_key_value_heads": 8}
    write_gguf(tmp_path / "tiny.gguf", config, changes={f"llama.{key}": None for key in left_out})
    found = read_gguf(tmp_path / "tiny.gguf").config
    assert found.items() >= (config | {"rope_theta": 10000.0}).items()


def llama3_factors(factor: float, theta: float = 50000.0, size: int = 32) -> Floats:
    """`generate_extra_tensors` of llama.cpp's conversion/llama.py."""
    factors = []
    for frequency in 1 / theta ** (np.arange(0, size, 2) / size):
        wave = 2 * np.pi / frequency
        smooth = (8192 / wave - 1) / (4 - 1)
        is_short, is_long = wave < 8192 / 4, wave > 8192 / 1
        factors.append(1.0 if is_short else factor if is_long else 1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("changes", "extra", "scaling"),
    [
        pytest.param({"type": "none"}, {}, None, id="none"),
        pytest.param(
            {"type": "linear", "factor": 2.5}, {}, {"rope_type": "linear", "factor": 2.5}, id="linear"
        ),
        pytest.param(
            {"type": "yarn", "factor": 4.0, "original_context_length": 32},
            {},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            id="yarn",
        ),
        pytest.param(
            {},
            {"rope_freqs.weight": llama3_factors(32)},
            {"rope_type": "llama3", "factor": 32.0, **LLAMA3},
            id="llama3",
        ),
    ],
)
def test_scaled_positions(
    changes: dict[str, Any], extra: dict[str, Floats], scaling: dict[str, Any] | None, tmp_path: Path
) -> None:
    named = {f"llama.rope.scaling.{key}": value for key, value in changes.items()}
    write_gguf(tmp_path / "tiny.gguf", changes=named, extra=extra)
    file = read_gguf(tmp_path / "tiny.gguf")
    assert file.config["rope_scaling"] == scaling
    assert not any("rope" in name for name in file.weights)


# Every architecture, against transformers

SIZES: dict[str, Any] = {
    key: LLAMA[key] for key in LLAMA if key not in {"model_type", "head_dim", "rope_theta", "rms_norm_eps"}
}
ARCHITECTURES: list[Any] = [
    pytest.param("llama", "llama", {"rope_theta": 50000.0}, {}, id="llama"),
    pytest.param("llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}, id="llama with biases"),
    pytest.param("llama", "llama", {"tie_word_embeddings": True, "head_dim": 64}, {}, id="large heads"),
    pytest.param("mistral", "llama", {"sliding_window": 16}, {"attention.sliding_window": 16}, id="mistral"),
    pytest.param("qwen2", "qwen2", {"rope_theta": 1e6}, {}, id="qwen2"),
    pytest.param("qwen3", "qwen3", {"head_dim": 64}, {}, id="qwen3"),
    pytest.param("smollm3", "smollm3", {"num_hidden_layers": 5}, {}, id="smollm3"),
    pytest.param("gemma", "gemma", {"head_dim": 64}, {}, id="gemma"),
    pytest.param(
        "gemma2",
        "gemma2",
        {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16},
        {
            "attention.sliding_window": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        id="gemma2",
    ),
    pytest.param(
        "gemma3_text",
        "gemma3",
        {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16, "num_hidden_layers": 7},
        {"attention.sliding_window": 16},
        id="gemma3",
    ),
]


# Of training; and Gemma's activation, which its configurations leave to transformers.
_UNTOLD = frozenset({"initializer_range", "architectures", "hidden_act", "hidden_activation"})


@pytest.mark.export
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "architecture", "settings", "changes"), ARCHITECTURES)
def test_a_model_is_the_one_that_it_was_written_from(
    model_type: str, architecture: str, settings: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fixed = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    source = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **{**SIZES, **fixed, **settings}),
        attn_implementation="eager",  # the others leave caps out
    ).eval()
    config = source.config.to_dict()
    config["head_dim"] = config.get("head_dim") or 32
    weights = {name: weight.numpy() for name, weight in source.state_dict().items()}
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    for name, weight in weights.items():  # transformers starts with the same for all
        if weight.ndim == 1:
            weight[:] = np.random.default_rng(len(name)).standard_normal(weight.shape) * 0.1 + weight
    named = {f"{architecture}.{key}": value for key, value in changes.items()}
    named["tokenizer.ggml.padding_token_id"] = 0
    write_gguf(tmp_path / "tiny.gguf", config, weights, architecture=architecture, changes=named)

    file = read_gguf(tmp_path / "tiny.gguf")
    assert file.weights.keys() == weights.keys()
    for name, weight in file.weights.items():
        # 1 + weight - 1 is not always the weight
        np.testing.assert_allclose(weight, weights[name], rtol=0, atol=1e-6 if "norm" in name else 0)
    known = {key: value for key, value in file.config.items() if key != "architectures"}
    ours = transformers.AutoConfig.for_model(**known)
    assert {key: ours.to_dict()[key] for key in config if key not in _UNTOLD} == {
        key: config[key] for key in config if key not in _UNTOLD
    }
    assert file.config["architectures"] == [type(source).__name__]
    again = transformers.AutoModelForCausalLM.from_config(ours, attn_implementation="eager").eval()
    again.load_state_dict(
        {name: torch.from_numpy(weight) for name, weight in file.weights.items()}, strict=False
    )
    ids = torch.arange(3, 39)[None]
    with torch.no_grad():
        expected = source(ids).logits
        torch.testing.assert_close(again(ids).logits, expected, rtol=1e-4, atol=1e-4)

    shape = shape_of(file.config)
    assert shape is not None
    found = torch.from_numpy(reference_logits(file.weights, shape, ids[0].numpy()))
    torch.testing.assert_close(found, expected[0], rtol=1e-3, atol=1e-3)


# What is refused


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(ExportError) as caught:
        read_gguf(path)
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH"), caught.value.hint


AGAIN = "get the file again"
UINT32, ARRAY = struct.pack("<I", 4), struct.pack("<I", 9)
HUGE = struct.pack("<Q", 2**62)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "PATH: not a GGUF file", id="empty"),
        pytest.param(b"version https://git-lfs.github.com", "PATH: not a GGUF file", id="a pointer of LFS"),
        pytest.param(
            b"GGUF\x03", "PATH: truncated or damaged: it says that it is longer than it is", id="short"
        ),
        pytest.param(header(0, 0, version=1), "PATH: GGUF version 1, where lmcli reads (2, 3)", id="old"),
        pytest.param(header(0, 2**63), "PATH: truncated or damaged", id="endless facts"),
        pytest.param(header(2**63, 0), "PATH: truncated or damaged", id="endless tensors"),
        pytest.param(header(0, 1, HUGE, b"name"), "PATH: truncated or damaged", id="an endless name"),
        pytest.param(
            header(0, 1, text(b"a"), ARRAY, struct.pack("<I", 0), HUGE, bytes(99)),
            "PATH: truncated or damaged",
            id="an endless array of bytes",
        ),
        pytest.param(
            header(0, 1, text(b"a"), ARRAY, struct.pack("<I", 8), HUGE, bytes(99)),
            "PATH: truncated or damaged",
            id="an endless array of strings",
        ),
        pytest.param(
            header(0, 1, text(b"a"), ARRAY, ARRAY, HUGE),
            "PATH: a value is of the unknown type 9",
            id="nested",
        ),
        pytest.param(
            header(0, 1, text(b"a"), struct.pack("<I", 99)),
            "PATH: a value is of the unknown type 99",
            id="type",
        ),
        pytest.param(header(0, 1, text(b"\xff"), UINT32), "PATH: a string is not UTF-8", id="not UTF-8"),
        pytest.param(
            header(0, 2, *[text(b"a") + UINT32 + UINT32] * 2),
            "PATH: key 'a' is there twice",
            id="a key twice",
        ),
        pytest.param(
            header(1, 0, text(b"t"), struct.pack("<I", 5)), "PATH: a tensor has 5 axes", id="too many axes"
        ),
        pytest.param(
            header(1, 0, text(b"t"), struct.pack("<IQIQ", 1, 32, 77, 0)),
            "PATH: tensor 't' is of the unknown type 77",
            id="an unknown type of tensor",
        ),
        pytest.param(
            header(1, 0, text(b"t"), struct.pack("<IQIQ", 1, 33, 2, 0)),
            "PATH: tensor 't' has rows of 33 values, in blocks of 32",
            id="a part of a block",
        ),
        pytest.param(
            header(1, 0, text(b"t"), struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0)),
            "PATH: truncated or damaged",
            id="an endless tensor",
        ),
        pytest.param(
            header(1, 0, text(b"t"), struct.pack("<IQIQ", 1, 4, 0, 2**60), bytes(64)),
            "PATH: truncated or damaged",
            id="a tensor behind the end",
        ),
        pytest.param(
            header(0, 1, text(b"general.alignment"), UINT32, struct.pack("<I", 24)),
            "PATH: general.alignment is 24, not a power of two",
            id="alignment",
        ),
        pytest.param(
            header(0, 1, text(b"general.architecture"), strings(["llama"])),
            "PATH: general.architecture is of the type list, not str",
            id="several architectures",
        ),
        pytest.param(header(0, 0), "PATH does not say its general.architecture", id="nothing"),
    ],
)
def test_damaged_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    assert refusal(path)[0].startswith(message)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.gguf") == ("PATH cannot be read: No such file or directory", "")


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        pytest.param(
            {"split.count": 3},
            "PATH is one of 3 parts of a model",
            "put them together: llama-gguf-split --merge",
            id="split",
        ),
        pytest.param(
            {"general.type": "mmproj"},
            "PATH is no model but of the type 'mmproj'",
            "export the file of the model that it belongs to",
            id="no model",
        ),
        pytest.param(
            {"llama.expert_count": 8},
            "PATH is a mixture of experts, which lmcli does not run",
            "choose a dense model",
            id="experts",
        ),
        pytest.param(
            {"llama.block_count": None}, "PATH does not say its llama.block_count", AGAIN, id="lacks"
        ),
        pytest.param(
            {"llama.block_count": "2"},
            "PATH: llama.block_count is of the type str, not int",
            AGAIN,
            id="wrong kind",
        ),
        pytest.param({"llama.block_count": 0}, "PATH: llama.block_count is 0", AGAIN, id="no layers"),
        pytest.param(
            {"llama.block_count": 10**9},
            "PATH: it says that it has 1000000000 layers",
            AGAIN,
            id="many layers",
        ),
        pytest.param(
            {"llama.block_count": 3},
            "PATH lacks weights of the model: model.layers.2.input_layernorm.weight and 8 more",
            AGAIN,
            id="lacks a layer",
        ),
        pytest.param(
            {"llama.block_count": 1},
            "PATH has weights that its metadata knows nothing of: "
            "model.layers.1.input_layernorm.weight and 8 more",
            AGAIN,
            id="one layer more",
        ),
        pytest.param(
            {"llama.feed_forward_length": 256},
            "PATH: model.layers.0.mlp.gate_proj.weight is (512, 256), where the metadata wants (256, 256)",
            AGAIN,
            id="another shape",
        ),
        pytest.param(
            {"llama.attention.head_count_kv": 3},
            "PATH: 8 heads of queries cannot share 3 of keys",
            AGAIN,
            id="heads",
        ),
        pytest.param(
            {"llama.rope.dimension_count": 16},
            "PATH: rope.dimension_count is not the size of a head, 32, which lmcli does not run",
            AGAIN,
            id="half of a head rotates",
        ),
        pytest.param(
            {"llama.attention.key_length": 31},
            "PATH: a head has 31 values, which cannot be rotated in pairs",
            AGAIN,
            id="odd heads",
        ),
        pytest.param(
            {"llama.rope.scaling.type": "longrope"},
            "PATH: rotations of positions are scaled in an unknown way, 'longrope'",
            AGAIN,
            id="longrope",
        ),
    ],
)
def test_models_that_lmcli_does_not_read(
    changes: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "tiny.gguf", changes=changes)
    assert refusal(tmp_path / "tiny.gguf") == (message, hint)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", weights={}, architecture="mamba")
    assert refusal(tmp_path / "tiny.gguf") == (
        "PATH: the architecture 'mamba' is not one that lmcli reads from GGUF",
        "it knows llama, qwen2, qwen3, smollm3, gemma, gemma2, gemma3",
    )


def test_big_endian(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", big_endian=True)
    assert refusal(tmp_path / "tiny.gguf") == (
        "PATH: a GGUF file for big-endian machines",
        "convert the model again, without --bigendian",
    )


def test_no_embeddings(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", weights={})
    assert refusal(tmp_path / "tiny.gguf") == ("PATH: it has no table of token embeddings", AGAIN)


@pytest.mark.parametrize("name", ["blk.0.ssm_a", "blk.0.ssm_a.weight", "rope_factors_long.weight"])
def test_a_tensor_of_another_architecture(name: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", extra={name: np.zeros(4, np.float32)})
    assert refusal(tmp_path / "tiny.gguf") == (
        f"PATH has a tensor that its architecture has no place for: {name!r}",
        "please report the model: lmcli cannot read it faithfully",
    )


def test_a_type_that_is_no_weight(tmp_path: Path) -> None:
    weights = {name: weight for name, weight in random_weights().items() if name != "model.norm.weight"}
    extra = {"output_norm.weight": np.zeros(256, np.int32)}
    write_gguf(tmp_path / "tiny.gguf", weights=weights, extra=extra)
    assert refusal(tmp_path / "tiny.gguf") == (
        "PATH: model.norm.weight is of the type I32, which cannot be read",
        "take a file of another quantization, or a newer `gguf` package",
    )


def test_a_vector_in_blocks(tmp_path: Path) -> None:
    weights = {name: weight for name, weight in random_weights().items() if name != "model.norm.weight"}
    extra = {"output_norm.weight": quantize(np.zeros((1, 256), np.float32), Kind.Q8_0)[0]}
    write_gguf(tmp_path / "tiny.gguf", weights=weights, extra=extra, extra_kind=Kind.Q8_0)
    assert refusal(tmp_path / "tiny.gguf")[0] == (
        "PATH: model.norm.weight is of the type Q8_0, which cannot be read"
    )


def test_frequencies_that_are_scaled_twice(tmp_path: Path) -> None:
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_gguf(tmp_path / "tiny.gguf", changes=changes, extra={"rope_freqs.weight": llama3_factors(8)})
    assert refusal(tmp_path / "tiny.gguf") == (
        "PATH: rope_freqs.weight is not all that scales rotations, a float32 for each frequency",
        AGAIN,
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        pytest.param(
            llama3_factors(8) ** 2,
            "frequencies of positions are scaled in another way than Llama's",
            id="other",
        ),
        pytest.param(
            llama3_factors(8)[1:],
            "rope_freqs.weight is not all that scales rotations, a float32 for each frequency",
            id="too few",
        ),
    ],
)
def test_unknown_frequencies(factors: Floats, message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", extra={"rope_freqs.weight": factors})
    assert refusal(tmp_path / "tiny.gguf") == (f"PATH: {message}", AGAIN)


def test_every_damage_is_an_export_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "tiny.gguf", random.Random(0)
    small = (
        LLAMA
        | {"hidden_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
        | {"intermediate_size": 32}
    )
    write_gguf(path, small)
    whole = path.read_bytes()
    metadata = whole.index(b"output_norm")
    damaged = [whole[:size] for size in (*range(0, metadata, 97), len(whole) - 1)]
    for _ in range(400):
        place = rng.randrange(metadata + 1000)
        damaged.append(whole[:place] + rng.randbytes(rng.choice([1, 8])) + whole[place + 8 :])
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            file = read_gguf(path)
            assert all(np.asarray(weight).size for weight in file.weights.values())
        except ExportError:
            refused += 1
    assert refused > len(damaged) / 4
