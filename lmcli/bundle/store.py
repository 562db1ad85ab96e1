"""Where bundles live, and how one is found, checked and listed.

`open_bundle` finds the bundle of a task; `iter_bundles` and `verify` look after the rest. A bundle is data
from anywhere: nothing in it is trusted unchecked.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from lmcli.bundle.catalogue import catalogue
from lmcli.bundle.manifest import MANIFEST_NAME, FileFacts, Manifest, Task
from lmcli.errors import REBUILD, BundleError, UsageError, reason
from lmcli.spelling import closest, did_you_mean

DEFAULTS: Mapping[Task, str] = {
    "text-classification": "sentiment-en",
    "token-classification": "ner-en",
    "translation": "translate-en-fr",
    "summarization": "smollm2-135m-instruct",
    "text-generation": "smollm2-135m-instruct",
    "feature-extraction": "all-minilm-l6-v2",
}
"""The bundle of each task when none is named. They ship with lmcli, or the catalogue has them."""
COMMANDS: Mapping[Task, str] = {
    "text-classification": "sentiment",
    "token-classification": "ner",
    "translation": "translate",
    "summarization": "summarize",
    "text-generation": "prompt",
    "feature-extraction": "embed",
}

HASHED_AT_OPENING = 64 * 2**20
"""Files up to this size are hashed each time a bundle is opened, which costs milliseconds."""

_CLASSIFIER_FILES = ("model.onnx", "tokenizer.json")
_SEQ2SEQ_FILES = ("encoder.onnx", "decoder.onnx", "tokenizer.json")
REQUIRED: Mapping[Task, tuple[str, ...]] = {
    "text-classification": _CLASSIFIER_FILES,
    "token-classification": _CLASSIFIER_FILES,
    "translation": _SEQ2SEQ_FILES,
    "summarization": _SEQ2SEQ_FILES,
    "text-generation": ("model.onnx", "tokenizer.json"),
    "feature-extraction": _CLASSIFIER_FILES,
}
"""The files without which a bundle of a task cannot run."""

FileStatus = Literal["ok", "missing", "changed", "unlisted", "not a regular file", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that passed the checks of `read_bundle`."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The SHA-256 of its manifest, which has those of all files."""
        return hashlib.sha256(self.manifest.to_json()).hexdigest()

    def file(self, name: str) -> Path:
        """The path of one of its files. Raises BundleError when the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: the bundle has no file {name!r}", hint=REBUILD)
        return self.path / name


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A directory where a bundle should be, and why it is none."""

    path: Path
    error: BundleError


def open_bundle(name: str | None, *, task: Task, also: tuple[Task, ...] = ()) -> Bundle:
    """Find, check and open the bundle called `name`, or the default one of `task`.

    It may be for one of the tasks of `also` instead. Raises BundleError when there is none, when it is
    damaged, or when it is for another task; UsageError when `name` cannot be the name of a bundle.
    """
    name = DEFAULTS[task] if name is None else name
    tasks = (task, *also)
    path = _find(name)
    if path is None:
        raise _not_found(name, tasks)
    bundle = read_bundle(path)
    if bundle.manifest.task not in tasks:
        raise BundleError(
            f"{name} is a bundle for {bundle.manifest.task}, not for {_either(tasks)}",
            hint=f"`lmcli {COMMANDS[bundle.manifest.task]} --model {shlex.quote(name)}` runs it",
        )
    return bundle


def find_bundle(name: str) -> Path:
    """The directory of the bundle called `name`, unchecked. Raises BundleError when there is none."""
    path = _find(name)
    if path is None:
        raise _not_found(name, COMMANDS)
    return path


def read_bundle(path: Path) -> Bundle:
    """Check the bundle at `path` and open it: all files are there, regular, of the right size and content.

    The content of a file above HASHED_AT_OPENING is left to `verify`. Raises BundleError.
    """
    manifest = _read_manifest(path)
    for name in REQUIRED[manifest.task]:
        if name not in manifest.files:
            raise BundleError(f"{path}: the manifest lists no {name}", hint=REBUILD)
    for name, facts in manifest.files.items():
        status = _status(path / name, facts, hash_up_to=HASHED_AT_OPENING)
        if status != "ok":
            raise BundleError(f"{path / name} is {status}", hint=REBUILD)
    # A graph may name any file beside it as that of its weights.
    if others := _unlisted(path, manifest):
        raise BundleError(f"{path / others[0]} is not in the manifest", hint=f"remove it, or {REBUILD}")
    return Bundle(path=path, manifest=manifest)


def iter_bundles() -> Iterator[Bundle | Broken]:
    """Every bundle that a bare name finds, place by place. A broken one is reported, not raised."""
    seen: set[str] = set()
    for place in _places():
        for path in _directories(place):
            if path.name in seen:
                continue
            seen.add(path.name)
            try:
                yield read_bundle(path)
            except BundleError as error:
                yield Broken(path=path, error=error)


def verify(path: Path) -> list[tuple[str, FileStatus]]:
    """Hash every file of the bundle at `path`: first those of the manifest, then what it does not list.

    Raises BundleError when the manifest itself is unusable.
    """
    manifest = _read_manifest(path)
    found: list[tuple[str, FileStatus]] = [
        (name, _status(path / name, facts)) for name, facts in manifest.files.items()
    ]
    return found + [(name, "unlisted") for name in _unlisted(path, manifest)]


def _unlisted(path: Path, manifest: Manifest) -> list[str]:
    """What lies in a bundle besides its manifest and the files in that."""
    return sorted({entry.name for entry in path.iterdir()} - {*manifest.files, MANIFEST_NAME})


def user_store() -> Path | None:
    """The user's bundles: below $LMCLI_HOME, else in the platform's data directory; None without a home."""
    return _user_place("bundles", platformdirs.user_data_path)


def user_cache() -> Path | None:
    """What can be computed again: below $LMCLI_HOME, else where the platform has it; None without a home."""
    return _user_place("cache", platformdirs.user_cache_path)


def _user_place(name: str, directory: Callable[..., Path]) -> Path | None:
    if home := os.environ.get("LMCLI_HOME"):
        return Path(home) / name
    try:
        place = directory("lmcli", appauthor=False)
    except (KeyError, OSError, RuntimeError):
        return None
    # Without HOME (cron, containers) a `~` may stay unexpanded: a folder of that name is no store.
    return place / name if place.is_absolute() else None


def shipped() -> Path:
    """The bundles that came with lmcli: inside the package in a wheel, beside it in a source checkout."""
    package = Path(__file__).parent.parent
    inside = package / "exported"
    return inside if inside.is_dir() else package.parent / "exported"


def _places() -> list[Path]:
    return [place for place in (Path("exported"), user_store(), shipped()) if place is not None]


def _find(name: str) -> Path | None:
    """A name with a separator is a path; any other is looked up in the places, first match first."""
    if _is_path(name):
        return Path(name)
    check_name(name)
    found = (path for place in _places() for path in _directories(place) if path.name == name)
    return next(found, None)


def _is_path(name: str) -> bool:
    return name in {".", ".."} or os.sep in name or bool(os.altsep and os.altsep in name)


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be the name of a bundle."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a bundle",
            hint="a name has letters, digits, '.', '_' and '-', and starts with a letter or a digit",
        )


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _not_found(name: str, tasks: Collection[Task]) -> BundleError:
    names = [
        found.path.name
        for found in iter_bundles()
        if isinstance(found, Bundle) and found.manifest.task in tasks
    ]
    to_pull = [each for each, entry in catalogue().items() if entry.task in tasks]
    known = [*names, *to_pull]
    found = name if name in to_pull else closest(name, known)
    suggestion = did_you_mean(name, known, before="; ") if found != name else ""
    kind = f" for {_either(tasks)}" if len(tasks) < len(COMMANDS) else ""
    there_are = f"the bundles{kind} are: {', '.join(names)}" if names else f"there are none{kind}"
    hint = f"{there_are}; `lmcli export SOURCE {name}` makes it from a model"
    if found is not None and found not in names:
        hint = f"`lmcli pull {found}` gets it ({catalogue()[found].cost})"
    return BundleError(f"there is no bundle {name!r}{suggestion}", hint=hint)


def _either(tasks: Collection[Task]) -> str:
    return " or ".join(tasks)


def _directories(place: Path) -> list[Path]:
    """What may be a bundle in `place`: directories that are not hidden."""
    try:
        return sorted(path for path in place.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    except OSError:
        return []


def _read_manifest(path: Path) -> Manifest:
    where = path / MANIFEST_NAME
    try:
        info = where.lstat()
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MANIFEST_LIMIT:
            raise BundleError(f"{where}: not a manifest of an lmcli bundle", hint=REBUILD)
        return Manifest.from_json(where.read_bytes(), where=str(where))
    except (FileNotFoundError, NotADirectoryError):
        raise foreign(path) from None
    except OSError as error:
        raise BundleError(f"{where}: {reason(error)}") from error


_MANIFEST_LIMIT = 16 * 2**20


def foreign(path: Path) -> BundleError:
    """What to say of a directory without a manifest."""
    if not path.exists():
        hint = "`lmcli export SOURCE NAME` makes a bundle of a model"
        return BundleError(f"{path}: no such directory", hint=hint)
    if (path / "config.json").exists():
        return BundleError(
            f"{path} is a model checkpoint, not an lmcli bundle",
            hint=f"`lmcli export {shlex.quote(str(path))} NAME` makes a bundle of it",
        )
    return BundleError(f"{path} is not an lmcli bundle: it has no {MANIFEST_NAME}", hint=REBUILD)


def _status(path: Path, facts: FileFacts, *, hash_up_to: float = math.inf) -> FileStatus:
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            return "not a regular file"
        if info.st_size != facts.size:
            return "changed"
        return "ok" if facts.size > hash_up_to or sha256(path) == facts.sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
