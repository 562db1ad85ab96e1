"""`fetch`: a checkpoint from a directory or from the hub; only the files that an export reads."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmcli.errors import ExportError, LmcliError, NoInputError, UnavailableError

CONFIG_NAME = "config.json"
SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
INDEX = {SAFETENSORS: "model.safetensors.index.json", PICKLE: "pytorch_model.bin.index.json"}
"""The kinds of weights in order of preference, each with the name of the index of its shards."""

_OTHER_FILES = re.compile(
    r"(generation_)?config\.json|tokenizer[\w.-]*\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.\w+|merges\.txt|[\w.-]+\.(model|spm)|README\.md"
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as its authors published it. Only what `files` names may be read."""

    path: Path
    kind: Literal["directory", "hub"]
    id: str
    revision: str | None
    """The full commit hash of a model of the hub."""
    files: Mapping[str, Path]
    """The allow-listed files by plain name. Pickled weights are among them only if the user allowed it."""

    @property
    def card(self) -> str:
        """The text of its model card, empty where there is none."""
        card = self.files.get("README.md")
        return card.read_text(encoding="utf-8", errors="replace") if card else ""

    @property
    def license(self) -> str | None:
        """The license that its model card names."""
        return _license(self.files["README.md"]) if "README.md" in self.files else None


def fetch(source: str, *, allow_pickle: bool, progress: bool) -> Checkpoint:
    """Find the checkpoint `source`: a directory, or a hub id `org/model[@revision]`, which is downloaded.

    Raises NoInputError when it is neither, UnavailableError when the hub does not give it, and ExportError
    when it lacks what an export needs.
    """
    path = Path(source)
    if source and path.is_dir():
        present = (entry.name for entry in path.iterdir() if entry.is_file())
        files = {name: path / name for name in _choose(present, source, allow_pickle=allow_pickle)}
        return Checkpoint(path=path, kind="directory", id=source, revision=None, files=files)
    model, revision = _parse_id(source)
    path, names = _download(model, revision, allow_pickle=allow_pickle, progress=progress)
    files = {name: path / name for name in names}
    return Checkpoint(path=path, kind="hub", id=model, revision=path.name, files=files)


def _choose(names: Iterable[str], source: str, *, allow_pickle: bool) -> list[str]:
    """The names an export may read, sorted: tokenizer, configuration and one kind of weights."""
    present = sorted(names)
    if CONFIG_NAME not in present:
        raise ExportError(
            f"{source} has no {CONFIG_NAME}: it is not a Transformers checkpoint",
            hint="export takes checkpoints as `save_pretrained` writes them",
        )
    kind = _weights(present, source, allow_pickle=allow_pickle)
    return [
        name
        for name in present
        if kind.fullmatch(name) or name == INDEX[kind] or _OTHER_FILES.fullmatch(name)
    ]


def _weights(names: list[str], source: str, *, allow_pickle: bool) -> re.Pattern[str]:
    kind = next((kind for kind in INDEX if any(map(kind.fullmatch, names))), None)
    if kind is None:
        raise ExportError(
            f"{source} has no PyTorch weights: neither model.safetensors nor pytorch_model.bin",
            hint="a model for another framework, or an adapter, must be converted first",
        )
    if kind is PICKLE and not allow_pickle:
        raise ExportError(
            f"{source} has its weights as pickle only, and a pickle can run code when it is read",
            hint="ask its authors for safetensors; if you trust them, --allow-pickle reads it",
        )
    return kind


def _parse_id(source: str) -> tuple[str, str]:
    """`org/model@revision` in two parts. Raises NoInputError when it cannot name a model of the hub."""
    from huggingface_hub.constants import DEFAULT_REVISION
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    model, at, revision = source.partition("@")
    with suppress(HFValidationError):
        validate_repo_id(model)
        # A revision becomes a part of a path in the hub's cache.
        if model and not Path(source).exists() and (not at or _REVISION.fullmatch(revision)):
            return model, revision or DEFAULT_REVISION
    raise NoInputError(
        f"{source!r} is neither a directory nor the id of a model",
        hint="give a checkpoint directory, or a hub id such as org/model or org/model@revision",
    )


_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")


def _download(model: str, revision: str, *, allow_pickle: bool, progress: bool) -> tuple[Path, list[str]]:
    """Bring the files of one commit into the hub's cache; its folder there, and their names.

    huggingface_hub reads HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE itself.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    if not progress:
        disable_progress_bars()
    try:
        commit, names = _list(model, revision)
        chosen = _choose(names, model, allow_pickle=allow_pickle)
        # By its name, not by the commit: this way the cache learns what the name means when offline.
        config = Path(hf_hub_download(model, CONFIG_NAME, revision=revision))
        if config.parent.name != commit:
            raise UnavailableError(f"{model} was changed during the download", hint="try again")
        for name in chosen:
            hf_hub_download(model, name, revision=commit)
    except OfflineModeIsEnabled:
        return _cached(model, revision, allow_pickle=allow_pickle)
    # Of the download libraries: requests' errors are OSErrors, hf_xet raises RuntimeError.
    except (OSError, RuntimeError) as error:
        raise _unavailable(model, revision, error) from error
    return config.parent, chosen


def _list(model: str, revision: str) -> tuple[str, list[str]]:
    """The full commit hash of `revision`, and the names of the files of that commit."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(model, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def _cached(model: str, revision: str, *, allow_pickle: bool) -> tuple[Path, list[str]]:
    """What an earlier download left in the hub's cache. Raises UnavailableError when weights are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        path = Path(snapshot_download(model, revision=revision, local_files_only=True))
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        if any(SAFETENSORS.fullmatch(name) or PICKLE.fullmatch(name) for name in names):
            return path, _choose(names, model, allow_pickle=allow_pickle)
    raise UnavailableError(
        f"{model} is neither a directory nor in the cache of the hub's models, and HF_HUB_OFFLINE is set",
        hint="unset HF_HUB_OFFLINE to download it, or give a directory",
    )


def _unavailable(model: str, revision: str, error: Exception) -> LmcliError:
    """Say in one line why the hub does not give `model`, and what to do about it."""
    from huggingface_hub import constants, errors
    from requests import exceptions

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    match error:
        case errors.GatedRepoError():
            message = f"{model} is gated: the hub gives it only to those who accepted its terms"
            hint = f"accept them at {constants.ENDPOINT}/{model}, then set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            message = f"the hub has no model {model}, or keeps it private; nor is there such a directory"
            hint = "check its name; for a private model set HF_TOKEN"
        case errors.RevisionNotFoundError():
            message = f"{model} has no revision {revision!r}"
            hint = f"see its branches, tags and commits at {constants.ENDPOINT}/{model}/commits/main"
        case errors.HfHubHTTPError(response=response) if response.status_code in {401, 403}:
            message = f"the hub refuses access to {model}"
            hint = "set HF_TOKEN to a token that may read it"
        case exceptions.Timeout() | exceptions.ConnectionError() | exceptions.ChunkedEncodingError():
            message = f"the hub at {constants.ENDPOINT} cannot be reached, or its answer broke off"
            hint = "try again later; HF_HUB_OFFLINE=1 uses what was downloaded before"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = f"no space is left in {constants.HF_HUB_CACHE} for {model}"
            hint = "free some space there, or let HF_HOME name a folder on another disk"
        case _:
            message = f"the download of {model} failed: {_first_line(error)}"
            hint = "try again later; what has arrived is kept"
    return UnavailableError(message, hint=hint)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _license(card: Path) -> str | None:
    """The license in the YAML head of a model card; a card that cannot be read names none."""
    from huggingface_hub.repocard import metadata_load

    with suppress(Exception):  # of the file, the encoding, the YAML: none matters to the export
        facts = metadata_load(card) or {}
        named = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
        return ", ".join(named) if isinstance(named, list) else named and str(named)
    return None
