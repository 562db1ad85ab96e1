"""Writing and removing bundles, so that no reader ever meets half of one."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcli.bundle.catalogue import catalogue
from lmcli.bundle.manifest import MANIFEST_NAME, FileFacts
from lmcli.bundle.store import DEFAULTS, check_name, find_bundle, foreign, sha256, shipped
from lmcli.errors import BundleError, OutputError, UsageError, reason


@contextmanager
def new_bundle(parent: Path, name: str, *, force: bool) -> Iterator[Path]:
    """Yield an empty directory that becomes the bundle `name` in `parent` if the block ends well.

    Nothing is left behind if it does not. With `force` a bundle of that name is replaced. Raises UsageError
    before any work is done, OutputError when `parent` cannot be written to.
    """
    check_name(name)
    target = parent / name
    _check_free(target, force=force)
    with _scratch(parent) as scratch:
        fresh = scratch / "new"
        with _writing(parent):
            fresh.mkdir()
        yield fresh
        _check_free(target, force=force)
        with _writing(target):
            _publish(fresh, target, old=scratch / "old")


def file_facts(directory: Path) -> dict[str, FileFacts]:
    """The `files` of a manifest: size and SHA-256 of every file in `directory` but the manifest, by name.

    Raises BundleError for anything that is not a regular file.
    """
    facts = {}
    for path in sorted(directory.iterdir()):
        if path.name != MANIFEST_NAME:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise BundleError(f"{path}: a bundle holds regular files only")
            facts[path.name] = FileFacts(size=path.stat().st_size, sha256=sha256(path))
    return facts


def remove(name: str) -> Path:
    """Remove a bundle from ./exported or from the user's store; return where it was.

    Raises UsageError for a bundle that ships with lmcli, BundleError when there is none, OutputError when
    the place cannot be written to.
    """
    check_name(name)
    path = find_bundle(name)
    # In a checkout the shipped ones lie in ./exported, where a model of the catalogue may be, too.
    ships = name in DEFAULTS.values() and name not in catalogue()
    if ships and path.parent.resolve() == shipped().resolve():
        raise UsageError(
            f"{name} ships with lmcli and cannot be removed ({path})",
            hint="a bundle of that name in ./exported or in your store takes its place",
        )
    if not (path / MANIFEST_NAME).is_file():
        raise foreign(path)
    # One rename makes it disappear as a whole; a symlink is moved itself, never what it points at.
    with _scratch(path.parent) as scratch, _writing(path):
        path.rename(scratch / name)
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {reason(error)}") from error


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """A hidden directory in `place` that is gone afterwards, and so is what killed runs left there.

    Every writer shares a lock on `place`, so whoever holds it alone knows that all scratch is left over.
    """
    with _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place, os.O_RDONLY)
    try:
        with suppress(OSError):  # another writer is at work, or the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left_over in place.glob(f"{_SCRATCH}*"):
                shutil.rmtree(left_over, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        with _writing(place):
            scratch = tempfile.mkdtemp(prefix=_SCRATCH, dir=place)
        try:
            yield Path(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(lock)


_SCRATCH = ".lmcli-scratch-"


def _check_free(target: Path, *, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise UsageError(f"{target} exists already", hint="choose another name, or replace it with --force")
    if not (target / MANIFEST_NAME).is_file():
        raise UsageError(
            f"{target} is not an lmcli bundle, so --force does not replace it",
            hint="choose another name, or move it away",
        )


def _publish(fresh: Path, target: Path, *, old: Path) -> None:
    """Put `fresh` in the place of `target`, durably.

    Replacing takes two renames: for a moment there is neither bundle, and a kill just then loses the old one.
    """
    for path in [*fresh.iterdir(), fresh]:
        _sync(path)
    try:
        if os.path.lexists(target):
            target.rename(old)
        fresh.rename(target)
    except BaseException:  # a signal, too, must not cost the old bundle
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
