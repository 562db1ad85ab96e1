"""Wheels that a test makes, honest ones and others, and a package index that is a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

Member = tuple[str | zipfile.ZipInfo, bytes]


def write_wheel(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    name: str = "tiny",
    version: str = "1.0",
    more: Sequence[Member] = (),
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """A wheel that pip takes: `files` by path, and `more` members as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for each, content in files.items():
            archive.writestr(each, content)
        for member, content in more:
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def use_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find wheels in `folder`, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
