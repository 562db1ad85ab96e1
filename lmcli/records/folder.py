"""`JobFolder`: the files beside an output that is not complete yet."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lmcli.errors import OutputError, reason
from lmcli.records.durable import open_file, sync_folder
from lmcli.records.job import JOB, as_json, other_job, read_job, write_job
from lmcli.records.recovery import History, has_completed, recover


def state_dir(target: Path) -> Path:
    """The folder beside an output that holds what is needed to continue it; of a link, beside its target."""
    resolved = Path(os.path.realpath(target))
    return resolved.with_name(f"{resolved.name}.lmcli")


def is_unfinished(target: Path) -> bool:
    """Whether an output was begun and never completed, so that much work may be lost with its folder.

    Raises OutputError if that cannot be told.
    """
    journal = state_dir(target) / "journal"
    try:
        return not has_completed(journal.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(f"cannot read {journal}: {reason(error)}") from error


class JobFolder:
    """Names, opens, puts in place and removes what is in the folder. Every method may raise OSError."""

    def __init__(self, target: Path) -> None:
        self.target = Path(os.path.realpath(target))
        self.path = state_dir(target)
        self.part, self.journal, self.final = (self.path / name for name in ("part", "journal", "final"))

    def recover(self, identity: Mapping[str, Any]) -> History:
        """What is to be continued, with the folder cleared of all that is no part of it.

        Raises ResumeError if that is an unfinished output of another identity.
        """
        self.path.mkdir(exist_ok=True)
        journal = self.journal.read_bytes() if self.journal.exists() else b""
        history = recover(journal, self.part, self.target)
        found, wanted = read_job(self.path), as_json(identity)
        if found != wanted:
            if history.state.records and not history.is_complete:
                raise other_job(self.path, found, wanted)
            history = History()
        if history.end == 0:
            _unlink(self.journal)
            sync_folder(self.path)  # no line must ever stand beside the identity of another job
            write_job(self.path, wanted, like=self.target)
        if history.end == 0 or history.is_in_place:
            _unlink(self.part)
        _unlink(self.final)
        return history

    def open(self, history: History, files: ExitStack) -> tuple[int, int]:
        """The journal and the part, cut off behind what holds; -1 for a part that is in place already."""
        journal = self._open(self.journal, history.end, files)
        part = -1 if history.is_in_place else self._open(self.part, history.state.size, files)
        sync_folder(self.path)
        sync_folder(self.path.parent)
        return journal, part

    def place(self, source: Path) -> None:
        """Give the output its name, durably."""
        os.replace(source, self.target)  # noqa: PTH105
        sync_folder(self.target.parent)
        sync_folder(self.path)

    def clear(self) -> None:
        """Remove what is of no use once the output is in place."""
        _unlink(self.final, self.part)

    def remove(self) -> None:
        """Remove all but the lock."""
        _unlink(self.journal)
        sync_folder(self.path)  # without a journal, the rest means nothing
        _unlink(self.part, self.final, self.path / JOB, (self.path / JOB).with_suffix(".tmp"))

    def _open(self, path: Path, size: int, files: ExitStack) -> int:
        descriptor = open_file(path, like=self.target)
        files.callback(os.close, descriptor)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        return descriptor


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
