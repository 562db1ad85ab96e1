"""Weights and JSON from the files of a checkpoint, read by ourselves: no code of it ever runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from lmcli.errors import ExportError
from lmcli.export.files import INDEX, PICKLE
from lmcli.export.source import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

JSON_LIMIT = 16 * 2**20


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name. Raises ExportError when a file cannot be read."""
    state: dict[str, Tensor] = {}
    for name in weight_files(checkpoint):
        path = checkpoint.files[name]
        try:
            state |= _read_tensors(path)
        except Exception as error:  # pickle alone raises a dozen kinds for a damaged file
            raise rejected(
                f"{path}: the weights cannot be read",
                error,
                hint="get the checkpoint again; after a `git clone`, `git lfs pull` brings the weights",
            ) from error
    return state


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name. A pickle may hold nothing else: `weights_only` runs no code."""
    import torch
    from safetensors.torch import load_file

    if not PICKLE.fullmatch(path.name):
        return load_file(path)  # type: ignore[no-any-return]
    state = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise ValueError("not a dict of tensors")
    return state


def weight_files(checkpoint: Checkpoint) -> list[str]:
    """The one file of weights, or the shards that the index names, or all there are."""
    files = checkpoint.files
    for pattern, index in INDEX.items():
        found = [name for name in files if pattern.fullmatch(name)]
        whole = index.removesuffix(".index.json")
        if whole in found:
            return [whole]
        if found:
            return _shards(files[index], found) if index in files else found
    return []


def _shards(index: Path, found: list[str]) -> list[str]:
    """Raises ExportError when `index` names anything but a file that was `found`."""
    table = read_json(index).get("weight_map")
    shards = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
    for shard in shards:
        if shard not in found:
            raise ExportError(f"{index} names {shard!r}, which is not there", hint="get the checkpoint again")
    return shards


def read_json(path: Path, *, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A JSON object of a checkpoint, of at most `limit` bytes. Raises ExportError for anything else."""
    if path.stat().st_size > limit:
        raise ExportError(f"{path}: larger than {limit} bytes")
    try:
        content = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}", hint="get the checkpoint again") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} is not a JSON object", hint="get the checkpoint again")
    return content


def rejected(message: str, error: Exception, *, hint: str = "") -> ExportError:
    """An ExportError in one line for what a library raised."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ExportError(f"{message}: {reason}", hint=hint)
