"""`read_safetensors`: the weights of a checkpoint, each read when it is asked for, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # that numpy has no bfloat16 of its own is why onnx depends on it, too
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from lmcli.errors import ExportError
from lmcli.export.files import PICKLE
from lmcli.export.source import Checkpoint
from lmcli.export.weights import rejected, weight_files

Floats = npt.NDArray[np.float32]

_FLOATS = frozenset(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))
_HINT = "get the checkpoint again; after a `git clone`, `git lfs pull` brings the weights"


def read_safetensors(checkpoint: Checkpoint) -> Mapping[str, Floats]:
    """The weights by name, from one file or from the shards that the index names, in float32.

    The mapping is of use as long as the files are there. It raises ExportError for a tensor that is no float.
    So does this for damaged files, and where there are none.
    """
    names = weight_files(checkpoint)
    if not names or any(map(PICKLE.fullmatch, names)):
        raise ExportError(
            f"{checkpoint.id} has no safetensors, which alone can be read without torch",
            hint="save the model again with transformers: `save_pretrained` writes safetensors",
        )
    files: dict[str, Any] = {}
    for name in names:
        path = checkpoint.files[name]
        try:
            file: Any = safe_open(path, framework="numpy")
        except Exception as error:  # safetensors' own, and those of the operating system
            raise rejected(f"{path}: the weights cannot be read", error, hint=_HINT) from error
        files |= dict.fromkeys(file.keys(), file)
    return _Weights(files)


class _Weights(Mapping[str, Floats]):
    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Floats:
        file = self._files[name]
        try:
            values = file.get_tensor(name)
        except Exception as error:  # types that numpy has no name for
            raise rejected(f"the weight {name} cannot be read", error, hint=_HINT) from error
        if values.dtype not in _FLOATS:
            raise ExportError(
                f"the weight {name} is {values.dtype}, not a float of 32 or 16 bits",
                hint="export the model it was made from; lmcli quantizes by itself",
            )
        return np.asarray(values, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:  # without this, asking would read the weight
        return name in self._files
