"""`GenerationConfig`: how an output is searched for. Names and meaning are those of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmcli.errors import UsageError

EarlyStopping = Literal["never"] | bool


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Special tokens and search options of a decoder: the defaults of a model, or what a user made of them.

    Every field means what it means in transformers' `GenerationConfig`, except that lengths count new tokens
    only, and that `bad_words_ids` of a single token are `suppress_tokens`.
    """

    decoder_start_token_id: int | None = None
    """What the decoder of an encoder-decoder starts with; None: a causal model continues its prompt."""
    eos_token_ids: tuple[int, ...]
    max_new_tokens: int
    """The most tokens of an output, its end included."""
    min_new_tokens: int = 0
    forced_bos_token_id: int | None = None
    """What the first token must be."""
    forced_eos_token_id: int | None = None
    """What the last token must be when `max_new_tokens` is reached."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that never come out."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of two and more tokens that never come out."""
    num_beams: int = 1
    num_return_sequences: int = 1
    """How many outputs, the best first; at most `num_beams` without sampling."""
    length_penalty: float = 1.0
    """Beam scores are divided by the length to this power."""
    early_stopping: EarlyStopping = False
    """True: stop with `num_beams` finished outputs; "never": only when no better one is possible."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice; 0: no limit."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that came out already are less likely (Keskar et al. 2019, arXiv:1909.05858)."""
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    """Sample among this many of the likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Sample among tokens that are at least this share as likely as the likeliest (arXiv:2407.01082)."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time it came out; of new tokens only, as in llama.cpp."""
    stop_strings: tuple[str, ...] = ()
    """An output ends before the first of these that comes out."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for values that mean nothing."""
        for name, good, hint in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("min_new_tokens", self.min_new_tokens >= 0, "0 or more"),
            ("num_beams", 1 <= self.num_beams <= MAX_BEAMS, f"from 1 to {MAX_BEAMS}"),
            ("num_return_sequences", self.num_return_sequences >= 1, "at least 1"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 or more"),
            ("length_penalty", -10 <= self.length_penalty <= 10, "from -10 to 10"),
            ("repetition_penalty", 1 <= self.repetition_penalty <= 100, "from 1 to 100"),
            ("temperature", 0.001 <= self.temperature <= 1000, "from 0.001 to 1000"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p < 1, "0 or more, below 1"),
            ("frequency_penalty", 0 <= self.frequency_penalty <= 100, "from 0 to 100"),
        ):
            if not good:
                raise UsageError(f"{name} is {getattr(self, name)}", hint=f"it must be {hint}")
        if self.do_sample and self.num_beams > 1:
            raise UsageError("sampling and beam search exclude each other", hint="choose one of the two")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise UsageError(
                f"{self.num_return_sequences} outputs from {self.num_beams} beam(s)",
                hint=f"set num_beams to at least {self.num_return_sequences}",
            )


MAX_BEAMS = 64
