"""Rotary positions, beside transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmcli.export.rope import read_rotation

pytestmark = pytest.mark.export

SIZE, THETA, LONGEST = 64, 50_000.0, 512
YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0},
        {"type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        YARN,
        YARN | {"original_max_position_embeddings": 128},
        YARN | {"attention_factor": 0.7},
        YARN | {"mscale": 0.7, "mscale_all_dim": 1.0},
        YARN | {"beta_fast": 16, "beta_slow": 2},
        YARN | {"truncate": False},
        YARN | {"factor": 0.5},
        YARN | {"original_max_position_embeddings": 2},
    ],
    ids=str,
)
def test_rotations_are_those_of_transformers(scaling: dict[str, Any] | None) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = AutoConfig.for_model(
        "llama",
        hidden_size=2 * SIZE,
        num_attention_heads=2,
        rope_theta=THETA,
        rope_scaling=scaling,
        max_position_embeddings=LONGEST,
    )
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(LONGEST)[None])
    found = read_rotation(THETA, SIZE, scaling, LONGEST)
    assert found is not None
    for ours, expected in zip(found.tables(LONGEST), theirs, strict=True):
        np.testing.assert_allclose(ours, expected[0, :, : SIZE // 2].numpy(), atol=1e-4)


def test_other_scalings_are_not_known() -> None:
    assert read_rotation(THETA, SIZE, {"rope_type": "longrope"}, LONGEST) is None
