"""`open_output`: where the result goes. A file appears whole or not at all."""

import glob
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedIOBase, BufferedWriter, RawIOBase
from pathlib import Path
from typing import IO

from lmcli.errors import OutputError, StreamError, reason
from lmcli.records.compression import codec_of
from lmcli.records.durable import keep_mode, sync_folder
from lmcli.records.source import STDIN

STDOUT = "-"
_LONGEST_NAME = 200
"""In bytes, of an output in the name of a temporary file: file systems allow 255."""
_LARGEST = 1 << 24
"""Of the bytes of a record that is written whole or not at all, also where a signal interrupts the run: what
does not fit into a buffer is written in parts. Memory is taken only for what is in it."""
_STDOUT = (None, STDOUT, "/dev/stdout")


class Output:
    """Bytes on their way out, compressed if the suffix of `name` says so.

    A failed write raises StreamError, or BrokenPipeError once the reader has left.
    """

    def __init__(self, stream: IO[bytes] | BufferedWriter, name: str, *, is_live: bool = True) -> None:
        codec = codec_of(name)
        self._stream = stream
        self._writer: IO[bytes] | BufferedIOBase = codec.open_writer(stream) if codec else stream
        self._name = name
        self.is_live = is_live
        """Whether somebody may read the output while it is written."""
        self.has_failed = False
        """Whether a write failed; what is buffered then cannot be written either."""

    def write(self, data: bytes, /) -> None:
        """Write all of it, perhaps to a buffer; buffers are cut between two writes only."""
        with self.watching():
            self._writer.write(data)

    def flush(self) -> None:
        """Hand over what is buffered."""
        with self.watching():
            self._writer.flush()
            self._stream.flush()

    def finish(self) -> None:
        """End the archive, if it is one, and flush; the stream stays open."""
        with self.watching():
            if self._writer is not self._stream:
                self._writer.close()
            self._stream.flush()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Say of a failure inside the block that it is this output's."""
        try:
            yield
        except BrokenPipeError:
            self.has_failed = True
            raise
        except OSError as error:
            self.has_failed = True
            raise StreamError(f"cannot write {self._name}: {reason(error)}") from error


@contextmanager
def open_output(path: str | None, *, inputs: Sequence[str] = (), force: bool = False) -> Iterator[Output]:
    """Standard output (None or `-`) or a file; refuses to write over one of `inputs`.

    A regular file is replaced when the block ends well, and keeps its mode; if the block fails the
    old one stays. Pipes and devices are written directly.
    """
    if not force:
        check_is_no_input(path, inputs)
    if path is None or is_stdout(path):
        opened = _open_stdout()
    elif is_file(path):
        opened = _open_replacement(path)
    else:
        opened = _open_directly(path)
    with opened as output:
        yield output


def is_stdout(path: str | None) -> bool:
    """Whether the name of an output means standard output."""
    return path in _STDOUT


def create(path: Path, mode: str, *, shown: str, buffering: int = -1) -> IO[bytes]:
    """Open a file for writing; OutputError, with the name `shown`, if that cannot be.

    What `/dev/stderr` and the like lead to is open already, and keeps its content.
    """
    if _is_open_already(str(path)):
        mode = mode.replace("w", "a")
    try:
        return path.open(mode, buffering)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot create {shown}: {reason(error)}") from error


def is_same_file(path: str, output: str | None) -> bool:
    """Whether a log at `path` would share its file with the output."""
    if output not in _STDOUT and os.path.realpath(str(output)) == os.path.realpath(path):
        return True
    log, written = _status(path), _status_of_stream(sys.stdout) if output in _STDOUT else _status(output)
    regular = log is not None and stat.S_ISREG(log.st_mode)
    return regular and log is not None and written is not None and os.path.samestat(log, written)


def check_is_no_input(path: str | None, inputs: Sequence[str]) -> None:
    """Raise OutputError if writing to `path` would destroy one of `inputs`."""
    output = _status_of_stream(sys.stdout) if path in _STDOUT else _status(path)
    if output is None or not stat.S_ISREG(output.st_mode):
        return
    for name in inputs:
        status = _status_of_stream(sys.stdin) if name == STDIN else _status(name)
        if status is not None and os.path.samestat(status, output):
            shown = "standard output" if path in _STDOUT else path
            raise OutputError(f"{shown} is also an input", hint="write to another file")


@contextmanager
def _open_stdout() -> Iterator[Output]:
    if sys.stdout is None:
        raise StreamError("cannot write standard output: it is closed")
    stream: IO[bytes] | BufferedWriter = sys.stdout.buffer
    # With PYTHONUNBUFFERED it is raw itself.
    raw = stream if isinstance(stream, RawIOBase) else getattr(stream, "raw", None)
    if isinstance(raw, RawIOBase):
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        stream = BufferedWriter(raw, _LARGEST)
    output = Output(stream, "standard output")
    try:
        with _finishing(output):
            yield output
    finally:
        if output.has_failed:
            _abandon_stdout()
        if isinstance(stream, BufferedWriter) and stream is not sys.stdout.buffer:
            with suppress(OSError, ValueError):  # told already
                stream.detach()


@contextmanager
def _open_directly(path: str) -> Iterator[Output]:
    stream = create(Path(path), "wb", shown=path, buffering=_LARGEST)
    try:
        with _finishing(Output(stream, path)) as output:
            yield output
    finally:
        with suppress(OSError):  # told already
            stream.close()


@contextmanager
def _open_replacement(path: str) -> Iterator[Output]:
    target = Path(os.path.realpath(path))  # of a symbolic link the link stays
    temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.tmp")
    stream = create(temporary, "xb", shown=path)
    try:
        keep_mode(stream.fileno(), target)  # before the first byte: the old file may be private
        with _finishing(Output(stream, path, is_live=False)) as output:
            yield output
        with output.watching():
            os.fsync(stream.fileno())
            stream.close()
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):
            stream.close()
        with suppress(OSError):  # a disk that failed is told already
            temporary.unlink(missing_ok=True)


@contextmanager
def _finishing(output: Output) -> Iterator[Output]:
    """Finish the output; if the block failed, still hand over the records written before."""
    try:
        yield output
    except BaseException:
        with suppress(Exception):
            output.finish()
        raise
    output.finish()


def sweep(target: Path) -> None:
    """Remove what runs left that were killed while they wrote to the target. The caller is the only one."""
    for stale in target.parent.glob(f"{glob.escape(_prefix(target))}*.tmp"):
        with suppress(OSError):
            stale.unlink()


def _prefix(target: Path) -> str:
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME])
    return f".{name}.lmcli-"


def is_file(path: str) -> bool:
    """Whether a new file may take the place of what is there: nothing, or a regular file.

    Raises OutputError like `check_is_writable`.
    """
    if is_stdout(path):
        return False
    check_is_writable(path)
    status = _status(path)
    return status is None or (stat.S_ISREG(status.st_mode) and not _is_open_already(path))


def check_is_writable(path: str) -> None:
    """Raise OutputError for what cannot be the name of a file, a directory, and a write-protected file."""
    if not path:
        raise OutputError("the name of the output is empty")
    try:
        os.path.realpath(path)
    except OSError as error:  # the working directory is gone
        raise OutputError(f"cannot create {path}: {reason(error)}") from error
    status = _status(path)
    if path.endswith("/") or (status is not None and stat.S_ISDIR(status.st_mode)):
        raise OutputError(f"cannot write {path}: it is a directory")
    if status is not None and not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {path}: it is write-protected")


def _is_open_already(path: str) -> bool:
    """Whether a name such as /dev/fd/3 leads to an open file, which others hold, too."""
    return path.startswith(("/dev/", "/proc/"))


def _abandon_stdout() -> None:
    """Keep the interpreter from writing once more at exit, and failing loudly, what just failed."""
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def is_pipe(stream: IO[str] | None) -> bool:
    """Whether another program reads what is written."""
    status = _status_of_stream(stream)
    return status is not None and (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode))


def _status(path: str | Path | None) -> os.stat_result | None:
    try:
        return os.stat(path) if path is not None else None  # noqa: PTH116
    except (OSError, ValueError):
        return None


def _status_of_stream(stream: IO[str] | None) -> os.stat_result | None:
    try:
        return os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):
        return None
