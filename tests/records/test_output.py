import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcli.errors import DataError, OutputError, StreamError
from lmcli.records.compression import decompress
from lmcli.records.output import open_output


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def put(path: str, data: bytes = b"new\n") -> None:
    with open_output(path) as output:
        output.write(data)


def test_a_new_file_appears_at_the_end() -> None:
    with open_output("out") as output:
        output.write(b"one\n")
        output.flush()
        assert not Path("out").exists()
    assert Path("out").read_bytes() == b"one\n"
    assert names() == ["out"]


def test_a_new_file_has_the_mode_of_the_umask() -> None:
    umask = os.umask(0o027)
    try:
        put("out")
    finally:
        os.umask(umask)
    assert Path("out").stat().st_mode & 0o777 == 0o640


def test_a_replaced_file_keeps_its_mode() -> None:
    Path("out").touch()
    Path("out").chmod(0o604)
    put("out")
    assert (Path("out").stat().st_mode & 0o777, Path("out").read_bytes()) == (0o604, b"new\n")


@pytest.mark.parametrize("error", [DataError("x"), KeyboardInterrupt(), BrokenPipeError()])
def test_after_a_failure_the_old_file_is_there(error: BaseException) -> None:
    Path("out.gz").write_bytes(b"old")

    def fail() -> None:
        with open_output("out.gz") as output:
            output.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (names(), Path("out.gz").read_bytes()) == (["out.gz"], b"old")


def test_of_a_link_the_target_is_replaced() -> None:
    Path("target").write_bytes(b"old")
    Path("link").symlink_to("target")
    put("link")
    assert (Path("link").is_symlink(), Path("target").read_bytes()) == (True, b"new\n")


def test_of_a_dangling_link_the_target_is_created() -> None:
    Path("link").symlink_to("target")
    put("link")
    assert (Path("link").is_symlink(), Path("target").read_bytes()) == (True, b"new\n")


@pytest.mark.parametrize(
    ("suffix", "expand"),
    [
        (".gz", gzip.decompress),
        (".bz2", bz2.decompress),
        (".xz", lzma.decompress),
        (".zst", lambda data: b"".join(decompress(iter([data]), "out"))),
        (".txt", bytes),
    ],
)
def test_compressed_by_suffix(suffix: str, expand: Callable[[bytes], bytes]) -> None:
    put(f"out{suffix}", b"one\n" * 1000)
    data = Path(f"out{suffix}").read_bytes()
    assert expand(data) == b"one\n" * 1000
    assert (len(data) < 1000) == (suffix != ".txt")


def test_equal_outputs_are_equal_archives() -> None:
    put("a.gz")
    put("b.gz")
    assert Path("a.gz").read_bytes() == Path("b.gz").read_bytes()


def test_a_fifo_is_written_directly() -> None:
    os.mkfifo("fifo")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("fifo").read_bytes()))
    reader.start()
    put("fifo")
    reader.join()
    assert (read, Path("fifo").is_fifo()) == ([b"new\n"], True)


def test_a_device_is_written_directly() -> None:
    put("/dev/null")
    assert Path("/dev/null").is_char_device()


def test_an_open_file_is_written_directly() -> None:
    with Path("out").open("wb") as held:
        put(f"/dev/fd/{held.fileno()}")
        assert os.fstat(held.fileno()).st_size == 4


@pytest.mark.parametrize("path", [None, "-", "/dev/stdout"])
def test_standard_output(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    with open_output(path) as output:
        output.write(b"one\n")
        output.flush()
    assert stdout.buffer.getvalue() == b"one\n"


def test_closed_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(StreamError, match="it is closed"), open_output(None):
        pass


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/out", "cannot create no/out: No such file or directory"),
        ("folder", "cannot write folder: it is a directory"),
        ("in/out", "cannot create in/out: Not a directory"),
        ("in", "in is also an input"),
        ("link", "link is also an input"),
    ],
)
def test_refused(path: str, message: str) -> None:
    Path("folder").mkdir()
    Path("in").write_bytes(b"old")
    Path("link").symlink_to("in")
    with pytest.raises(OutputError) as refused, open_output(path, inputs=["in"]):
        pass
    assert refused.value.message == message
    assert Path("in").read_bytes() == b"old"


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_redirections_are_inputs_and_outputs_too(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    with Path("file").open("r+") as redirected:
        monkeypatch.setattr(sys, stream, redirected)
        output, source = ("file", "-") if stream == "stdin" else (None, "file")
        with pytest.raises(OutputError), open_output(output, inputs=[source]):
            pass


def test_an_input_is_replaced_by_force() -> None:
    Path("in").write_bytes(b"old")
    with open_output("in", inputs=["in"], force=True) as output:
        output.write(b"new")
    assert Path("in").read_bytes() == b"new"


def test_devices_may_be_input_and_output() -> None:
    with open_output("/dev/null", inputs=["/dev/null", "-"]) as output:
        output.write(b"new")


@pytest.mark.parametrize("path", ["/dev/full", "full.gz"])
def test_a_full_disk(path: str) -> None:
    if path == "full.gz":
        Path(path).symlink_to("/dev/full")
    with pytest.raises(StreamError) as failed:
        put(path)
    assert failed.value.message == f"cannot write {path}: No space left on device"


def test_the_reader_has_left() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        put(f"/dev/fd/{writing}")
    os.close(writing)


PROGRAM = """if True:
    import sys
    from lmcli.errors import LmcliError
    from lmcli.records.output import open_output
    try:
        with open_output(None) as output:
            output.write(b"one\\n")
            if sys.argv[1:]:
                raise LmcliError("later")
    except LmcliError as error:
        sys.exit(error.message)
"""


def run(*args: str, stdout: int) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], stdout=stdout, stderr=subprocess.PIPE, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_standard_output_on_a_full_disk_fails_once() -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, stderr = run(stdout=full.fileno())
    assert (code, stderr) == (1, b"cannot write standard output: No space left on device\n")


def test_what_came_before_a_failure_is_delivered() -> None:
    assert run("fail", stdout=subprocess.PIPE) == (1, b"one\n", b"later\n")
