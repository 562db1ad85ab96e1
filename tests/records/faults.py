"""What can go wrong between a program and its disk: failing calls, power cuts, signals at any moment.

All three wait for the n-th chance and then strike once, so a loop over n = 1, 2, 3 ... until a run is not
struck tries every one there is. Files count if they lie under `root` and are opened and written through the
functions of `os`, as those of lmcli/records/durable.py are.

    for at in count(1):
        with failing(tmp_path, at, errno.ENOSPC) as fault:
            run()  # may raise
        if not fault.has_struck:
            break
        run_again_and_check()
"""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

# What fails, or is the last thing done before the power goes.
CALLS = ("write", "pwrite", "fsync", "fdatasync", "replace", "rename", "ftruncate", "unlink")


class PowerCut(BaseException):
    """The process is dead: no handler of it runs, and whatever it still tries does nothing."""


class Interrupt(BaseException):
    """What the handler of a signal raises."""


class Fault:
    """What is to happen at the n-th chance."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.has_struck = False

    def is_due(self) -> bool:
        """Count a chance; True for the n-th."""
        self._left -= 1
        self.has_struck = self.has_struck or self._left == 0
        return self._left == 0


@contextmanager
def failing(
    root: Path, at: int, error: int, *, persists: bool = False, is_short: bool = False
) -> Iterator[Fault]:
    """Let the `at`-th call fail with `error`, and with `persists` all after it.

    With `is_short` a write writes half of its bytes first, as it does where a disk gets full.
    """
    fault = Fault(at)

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not _lies_under(root, arguments[0]):
                return call(*arguments, **options)
            if not fault.is_due() and not (persists and fault.has_struck):
                return call(*arguments, **options)
            if is_short and name in ("write", "pwrite") and len(arguments[1]) > 1:
                descriptor, data, *offset = arguments
                call(descriptor, data[: len(data) // 2], *offset)
            raise OSError(error, os.strerror(error))

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield fault


@contextmanager
def short_writes(root: Path, most: int = 3) -> Iterator[None]:
    """Let every write take only a few bytes."""
    pwrite, write = os.pwrite, os.write

    def few(descriptor: int, data: bytes) -> bytes:
        return data[:most] if _lies_under(root, descriptor) else data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, few(file, data), offset))
        patch.setattr(os, "write", lambda file, data: write(file, few(file, data)))
        yield


@contextmanager
def interrupting(at: int, *files: str) -> Iterator[Fault]:
    """Raise Interrupt before the `at`-th bytecode that runs in one of these source files."""
    fault = Fault(at)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and fault.is_due():
            raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield fault
    finally:
        sys.settrace(before)


@contextmanager
def power_cut(root: Path, at: int, seed: int) -> Iterator[Fault]:
    """Cut the power after the `at`-th call, or at the end, and leave on the disk what may be there then.

    Swallows the PowerCut that ends the block. Of what was not synced each write is kept, kept in part, turned
    to zeros or lost, and each new, changed or removed name is kept or lost, as `seed` has it.
    """
    disk = _Disk(root, Fault(at))
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        with suppress(PowerCut):
            yield disk.fault
    disk.settle(random.Random(seed))


class _File:
    """An inode: what surely is on the disk, and what was done to it since."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.changes: list[tuple[int, bytes | None]] = []
        """Offset and bytes of a write; a size and None for a file that was cut."""

    def content(self) -> bytes:
        return _apply(self.durable, self.changes)

    def sync(self) -> None:
        self.durable, self.changes = self.content(), []

    def survive(self, chance: random.Random) -> bytes:
        changes: list[tuple[int, bytes | None]] = []
        for offset, data in self.changes:
            fate = chance.choice(["kept", "kept", "torn", "zeros", "lost"])
            if data is None or fate == "kept":
                changes += [] if fate == "lost" else [(offset, data)]
            elif fate == "torn":
                changes.append((offset, data[: chance.randrange(len(data) + 1)]))
            elif fate == "zeros":
                changes.append((offset, bytes(len(data))))
        return _apply(self.durable, changes)


class _Disk:
    """A model of the files under a folder, fed by the calls of `os`."""

    def __init__(self, root: Path, fault: Fault) -> None:
        self.fault = fault
        self._root = Path(os.path.realpath(root))
        self._names = {
            str(path): _File(path.read_bytes())
            for path in self._root.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        self._durable = dict(self._names)
        self._changes: list[tuple[str | None, str | None, _File]] = []
        """Old name, new name and file of what happened to names, in order, and not synced yet."""
        self._open: dict[int, _File] = {}
        self._call = {name: getattr(os, name) for name in (*CALLS, "open", "close")}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name))
        patch.setattr(os, "open", self._on_open)
        patch.setattr(os, "close", self._on_close)

    def settle(self, chance: random.Random) -> None:
        """Make the real files those that survived."""
        names = dict(self._durable)
        for old, new, file in self._changes:
            if chance.random() < 0.5 or (old is not None and names.get(old) is not file):
                continue
            if old is not None:
                del names[old]
            if new is not None:
                names[new] = file
        for name in {*self._names, *names}:
            Path(name).unlink(missing_ok=True)
        for name, file in names.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(file.survive(chance))

    def _wrap(self, name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not _lies_under(self._root, arguments[0]):
                return self._call[name](*arguments, **options)
            if self.fault.has_struck:
                raise PowerCut
            is_last = self.fault.is_due()
            if name in ("fsync", "fdatasync") and is_last:
                raise PowerCut  # who is not told that it worked cannot rely on it
            result = self._call[name](*arguments, **options)
            self._note(name, arguments, result)
            if is_last:
                raise PowerCut
            return result

        return wrapped

    def _note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        match name:
            case "write":
                end = os.lseek(arguments[0], 0, os.SEEK_CUR)
                self._file(arguments[0]).changes.append((end - result, bytes(arguments[1][:result])))
            case "pwrite":
                self._file(arguments[0]).changes.append((arguments[2], bytes(arguments[1][:result])))
            case "ftruncate":
                self._file(arguments[0]).changes.append((arguments[1], None))
            case "replace" | "rename":
                old, new = (os.path.realpath(name) for name in arguments[:2])
                self._names[new] = file = self._names.pop(old)
                self._changes.append((old, new, file))
            case "unlink":
                old = os.path.abspath(arguments[0])  # noqa: PTH100
                self._changes.append((old, None, self._names.pop(old)))
            case _:
                self._sync(arguments[0])

    def _sync(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open[descriptor].sync()
            return
        folder = os.path.realpath(f"/proc/self/fd/{descriptor}")
        left = []
        for old, new, file in self._changes:
            if os.path.dirname(new or old or "") == folder:  # noqa: PTH120
                if old is not None:
                    self._durable.pop(old, None)
                if new is not None:
                    self._durable[new] = file
            else:
                left.append((old, new, file))
        self._changes = left

    def _on_open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if not isinstance(path, int) and self.fault.has_struck and _lies_under(self._root, path):
            raise PowerCut
        descriptor: int = self._call["open"](path, flags, *arguments, **options)
        if not isinstance(path, int) and _lies_under(self._root, path) and not os.path.isdir(path):  # noqa: PTH112
            name = os.path.realpath(path)
            if name not in self._names:
                self._names[name] = _File()
                self._changes.append((None, name, self._names[name]))
            self._open[descriptor] = self._names[name]
            if flags & os.O_TRUNC:
                self._open[descriptor].changes.append((0, None))
        return descriptor

    def _on_close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._call["close"](descriptor)

    def _file(self, descriptor: int) -> _File:
        return self._open.get(descriptor) or self._names[os.path.realpath(f"/proc/self/fd/{descriptor}")]


def _apply(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    result = bytearray(content)
    for offset, data in changes:
        end = offset if data is None else offset + len(data)
        result.extend(bytes(max(0, (end if data is None else offset) - len(result))))
        if data is None:
            del result[offset:]
        else:
            result[offset:end] = data
    return bytes(result)


def _lies_under(root: Path, file: Any) -> bool:
    """Whether a path or an open file is in the folder."""
    path = f"/proc/self/fd/{file}" if isinstance(file, int) else os.fsdecode(file)
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
