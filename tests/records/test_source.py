import gzip
import io
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcli.errors import DataError, LmcliError, NoInputError, StreamError, UsageError
from lmcli.records.source import CHUNK, STDIN, check_inputs, files_from, glance, open_source


def read(name: str) -> bytes:
    with open_source(name) as chunks:
        return b"".join(chunks)


@pytest.fixture
def pipe() -> Iterator[tuple[str, int]]:
    """The name of the reading end, as a process substitution gives it, and the writing end."""
    reading, writing = os.pipe()
    yield f"/dev/fd/{reading}", writing
    os.close(reading)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" * 100_000)
    assert read(str(path)) == b"one\n" * 100_000


def test_a_pipe(pipe: tuple[str, int]) -> None:
    name, writing = pipe
    os.write(writing, gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    os.close(writing)
    assert read(name) == b"one\ntwo\n"


def test_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"one\n",))
    writer.start()
    assert read(str(path)) == b"one\n"
    writer.join()


def test_a_line_comes_while_the_pipe_stays_open(pipe: tuple[str, int]) -> None:
    name, writing = pipe
    with open_source(name) as chunks:
        os.write(writing, b"B\n")
        assert next(chunks) == b"B\n"
        os.write(writing, b"two")
        assert next(chunks) == b"two"
        os.close(writing)
        assert list(chunks) == []


def test_a_line_comes_through_gzip_while_the_pipe_stays_open(pipe: tuple[str, int]) -> None:
    name, writing = pipe
    compressor = zlib.compressobj(wbits=31)
    with open_source(name) as chunks:
        os.write(writing, compressor.compress(b"one\n") + compressor.flush(zlib.Z_SYNC_FLUSH))
        assert next(chunks) == b"one\n"
        os.write(writing, compressor.compress(b"two\n") + compressor.flush(zlib.Z_SYNC_FLUSH))
        assert next(chunks) == b"two\n"
        os.close(writing)
        with pytest.raises(DataError):
            next(chunks)


def test_a_pipe_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def write_late() -> None:
        time.sleep(0.1)
        os.write(writing, b"late\n")
        os.close(writing)

    writer = threading.Thread(target=write_late)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        writer.start()
        assert read("-") == b"late\n"
    writer.join()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b"one\r\n"))))
    assert read("-") == b"one\r\n"


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(NoInputError, match=r"^standard input is closed$"):
        read("-")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.txt", "cannot open missing.txt: No such file or directory"),
        ("folder", "cannot read folder: it is a directory"),
        ("file/below", "cannot open file/below: Not a directory"),
        ("", "cannot open : No such file or directory"),
        ("a\0b", "cannot open a\0b: embedded null byte"),
    ],
    ids=["missing", "directory", "below a file", "no name", "nul"],
)
def test_unusable_inputs(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(NoInputError) as refused:
        check_inputs(["file", name])
    assert refused.value.message == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o200)
    with pytest.raises(NoInputError, match=r"Permission denied$"):
        check_inputs([str(path)])


def test_a_file_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"No such file or directory$"):
        read(str(tmp_path / "gone"))


def test_standard_input_only_once() -> None:
    check_inputs(["-"])
    with pytest.raises(UsageError, match="only once"):
        check_inputs(["-", "-"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens but cannot be read")
def test_failed_read() -> None:
    with pytest.raises(StreamError) as failed:
        read("/proc/self/mem")
    assert failed.value.message == "cannot read /proc/self/mem: Input/output error"


@pytest.mark.parametrize(
    ("listing", "nul", "names"),
    [
        pytest.param(b"a b\nc\r\n-\n", False, ["a b", "c", "-"], id="lines"),
        pytest.param(b"a\nb\0c\0", True, ["a\nb", "c"], id="nul"),
        pytest.param(b"a\xff\n", False, [os.fsdecode(b"a\xff")], id="any bytes"),
        pytest.param(b"", False, [], id="none"),
    ],
)
def test_files_from(listing: bytes, nul: bool, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(listing)
    assert files_from(str(path), nul=nul) == names


@pytest.mark.parametrize(
    ("listing", "error", "message"),
    [
        pytest.param(b"a\n\nb\n", DataError, "-: name 2 of the list is empty", id="empty name"),
        pytest.param(
            b"a\n-\n",
            UsageError,
            "standard input cannot be both the list of inputs and one of them",
            id="stdin twice",
        ),
    ],
)
def test_unusable_lists(
    listing: bytes, error: type[LmcliError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listing)))
    with pytest.raises(error) as refused:
        files_from("-")
    assert refused.value.message == message


@pytest.mark.parametrize("size", [0, 3, CHUNK, CHUNK + 1])
def test_a_glance_at_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * size)
    assert glance(str(path)) == (b"x" * size if 0 < size <= CHUNK else None)


def test_a_glance_at_what_only_says_that_it_is_empty() -> None:
    assert glance("/proc/self/maps") is None


def test_a_glance_at_what_is_no_file(tmp_path: Path, pipe: tuple[str, int]) -> None:
    os.close(pipe[1])
    assert [glance(name) for name in (str(tmp_path), str(tmp_path / "none"), pipe[0])] == [None] * 3


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of a pipe from which standard input comes."""
    reading, writing = os.pipe()
    with open(reading) as stream:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", stream)
        yield writing


def test_a_glance_at_a_pipe_takes_nothing_from_its_reader(stdin: int) -> None:
    os.write(stdin, b"one\n")
    assert glance(STDIN) is None  # more may come
    os.write(stdin, b"two\n")
    os.close(stdin)
    assert glance(STDIN) == b"one\ntwo\n"
    assert read(STDIN) == b"one\ntwo\n"


def test_a_glance_waits_for_nothing(stdin: int) -> None:
    assert glance(STDIN) is None
    os.write(stdin, b"one\n")
    os.close(stdin)
    assert read(STDIN) == b"one\n"


def test_a_glance_takes_no_more_than_it_must(stdin: int) -> None:
    def write() -> None:
        os.write(stdin, b"x" * 9 * CHUNK)
        os.close(stdin)

    writer = threading.Thread(target=write)
    writer.start()
    assert glance(STDIN, most=8) is None
    assert read(STDIN) == b"x" * 9 * CHUNK
    writer.join()


def test_a_glance_at_a_redirected_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n")
    with path.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        os.lseek(stream.fileno(), 4, os.SEEK_SET)  # the shell's `read` has taken a line
        assert glance(STDIN) == b"two\n"
        assert read(STDIN) == b"two\n"


@pytest.mark.parametrize("stdin", [None, io.StringIO("a")])
def test_a_glance_at_no_standard_input(monkeypatch: pytest.MonkeyPatch, stdin: object) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    assert glance(STDIN) is None
