"""`LanguageModel`: what prompting needs of a model that continues text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Hypothesis, Listen, Source
from lmcli.engine.tokenizer import Ints, Tokenizer


class LanguageModel(Protocol):
    """A causal model with its tokenizer."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, which knows the context length."""
        ...

    def generate(
        self, sources: Sequence[Source], config: GenerationConfig, *, listen: Listen | None = None
    ) -> list[list[Hypothesis]]:
        """The outputs for each source, the best first."""
        ...

    def score(
        self, prompts: Sequence[Ints], choices: Sequence[Sequence[Ints]]
    ) -> list[list[npt.NDArray[np.float32]]]:
        """The log-probabilities of the tokens of each prompt's choices: (tokens,) each."""
        ...
