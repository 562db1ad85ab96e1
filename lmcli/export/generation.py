"""`generation_config`: how a checkpoint wants its outputs searched for, as lmcli's `GenerationConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from lmcli.bundle.manifest import Task
from lmcli.engine.generation import GenerationConfig
from lmcli.errors import ExportError, UsageError
from lmcli.export.config import Config, task_parameters
from lmcli.export.source import Checkpoint
from lmcli.export.weights import read_json

GENERATION_NAME = "generation_config.json"

# Settings that lmcli does not have, and the values that switch them off.
_LEFT_OUT: Mapping[str, Any] = {
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_decoder_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "renormalize_logits": False,
    "sequence_bias": None,
    "typical_p": 1.0,
}
_MAX_NEW_TOKENS = 512


class _Published(msgspec.Struct):
    """What transformers' GenerationConfig says, as far as lmcli knows it."""

    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    suppress_tokens: list[int] | None = None
    bad_words_ids: list[list[int]] | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


def generation_config(
    checkpoint: Checkpoint, config: Config, task: Task, *, max_positions: int | None
) -> tuple[GenerationConfig, list[str]]:
    """The search options and special tokens of a checkpoint, and the names of those that lmcli has not.

    They come from generation_config.json, else from config.json, as in transformers; what config.json says
    for the task goes first. Raises ExportError for what means nothing.
    """
    facts = _published(checkpoint, config, task)
    left_out = [name for name, off in _LEFT_OUT.items() if facts.get(name, off) not in (off, None)]
    try:
        published = msgspec.convert(facts, _Published)
        if task == "text-generation":
            return _continued(published), left_out
        return _converted(published, max_positions), left_out
    except (msgspec.ValidationError, UsageError) as error:
        raise ExportError(
            f"{GENERATION_NAME} or config.json: {error}",
            hint="correct it in a copy of the checkpoint, and export that",
        ) from error


def _published(checkpoint: Checkpoint, config: Config, task: Task) -> dict[str, Any]:
    facts = dict(config)
    if GENERATION_NAME in checkpoint.files:
        # As in transformers, the model's own file replaces what older ones said in config.json.
        facts = read_json(checkpoint.files[GENERATION_NAME])
        facts.setdefault("decoder_start_token_id", config.get("decoder_start_token_id"))
        facts.setdefault("eos_token_id", config.get("eos_token_id"))
    for name, parameters in task_parameters(config).items():
        if name.partition("_")[0] == task:
            facts |= parameters
            break
    return facts


def _continued(published: _Published) -> GenerationConfig:
    """Of a causal model. Its `max_length` counts the prompt, too, so it says nothing about an output."""
    ends = _ids(published.eos_token_id)
    if not ends:
        raise ExportError(
            "the checkpoint names no token that ends an output",
            hint="add eos_token_id to its generation_config.json",
        )
    longest = published.max_new_tokens or _MAX_NEW_TOKENS
    return GenerationConfig(
        eos_token_ids=ends,
        max_new_tokens=longest,
        min_new_tokens=min(published.min_new_tokens or 0, longest),
        **_searched(published),
    )


def _converted(published: _Published, max_positions: int | None) -> GenerationConfig:
    start = published.decoder_start_token_id
    start = published.bos_token_id if start is None else start
    ends = _ids(published.eos_token_id)
    if start is None or not ends:
        raise ExportError(
            "the checkpoint names no token that starts an output, or none that ends it",
            hint="add decoder_start_token_id and eos_token_id to its config.json",
        )
    longest = published.max_new_tokens or (published.max_length or _MAX_NEW_TOKENS) - 1
    if max_positions is not None:
        longest = min(longest, max_positions - 1)
    shortest = published.min_new_tokens or max(0, (published.min_length or 0) - 1)
    forced_eos = _ids(published.forced_eos_token_id)
    return GenerationConfig(
        decoder_start_token_id=start,
        eos_token_ids=ends,
        max_new_tokens=longest,
        min_new_tokens=min(shortest, longest),
        forced_bos_token_id=published.forced_bos_token_id,
        forced_eos_token_id=forced_eos[0] if forced_eos else None,
        **_searched(published),
    )


def _searched(published: _Published) -> dict[str, Any]:
    """The options that mean the same for all models."""
    bad = [tuple(words) for words in published.bad_words_ids or [] if words]
    single = [words[0] for words in bad if len(words) == 1]
    return {
        "suppress_tokens": tuple(dict.fromkeys([*single, *(published.suppress_tokens or [])])),
        "bad_words_ids": tuple(words for words in bad if len(words) > 1),
        **{name: value for name in _SAME if (value := getattr(published, name)) is not None},
    }


_SAME = (
    *("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p"),
)


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
