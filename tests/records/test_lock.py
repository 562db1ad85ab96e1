import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmcli.errors import OutputError
from lmcli.records.lock import LockedError, locked

HOLD = """
import sys
from pathlib import Path
from lmcli.records.lock import locked

with locked(Path(sys.argv[1]), wait=float(sys.argv[2])):
    print("locked", flush=True)
    sys.stdin.read()
"""
# Adds one to a number in a file, many times, which goes wrong if two do it at once.
COUNT = """
import sys
from pathlib import Path
from lmcli.records.lock import locked

number = Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with locked(Path(sys.argv[1]), wait=60):
        old = int(number.read_text())
        number.write_text("")
        number.write_text(str(old + 1))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.lmcli" / "lock"


@contextmanager
def holder(path: Path, wait: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock, or waits for it, until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path), str(wait)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def wait_for(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"


def test_the_lock_and_its_folder_come_and_go(path: Path) -> None:
    with locked(path):
        assert path.exists()
    assert not path.parent.exists()


def test_a_folder_with_other_files_stays(path: Path) -> None:
    with locked(path):
        path.with_name("job.json").touch()
    assert [each.name for each in path.parent.iterdir()] == ["job.json"]


def test_the_lock_is_free_after_a_failure(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    with locked(path):
        pass


def test_two_in_one_process(path: Path) -> None:
    with locked(path), pytest.raises(LockedError), locked(path):
        pass


def test_another_process_has_it(path: Path) -> None:
    with holder(path) as process:
        wait_for(process)
        with pytest.raises(LockedError) as caught, locked(path, shown="out.txt"):
            pass
        assert path.exists()
    assert caught.value.message == "another run is at work on out.txt"
    assert (caught.value.exit_code, caught.value.hint) == (75, "try again when it has ended")


def test_waiting_ends(path: Path) -> None:
    with holder(path) as process:
        wait_for(process)
        with pytest.raises(LockedError), locked(path, wait=0.3):
            pass


def test_who_waits_gets_it(path: Path) -> None:
    with holder(path) as first:
        wait_for(first)
        with holder(path) as second:
            first.communicate()
            wait_for(second)


def test_a_killed_holder_leaves_no_lock(path: Path) -> None:
    with holder(path) as process:
        wait_for(process)
        process.kill()
        process.wait()
        assert path.exists()
        with locked(path):
            pass
    assert not path.parent.exists()


def test_who_waits_for_a_killed_holder_gets_it(path: Path) -> None:
    with holder(path) as process:
        wait_for(process)
        with holder(path) as waiting:
            process.kill()
            wait_for(waiting)


def test_waiting_ends_with_a_signal(path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with locked(path), pytest.raises(StoppedError), locked(path, wait=60):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)


def test_no_two_hold_it_at_once(path: Path, tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", COUNT, str(path), str(number), "200"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert number.read_text() == "600"


def test_a_lock_that_was_removed_is_the_lock_of_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    removed: list[bool] = []

    def remove_and_lock(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not removed:
            path.unlink()
            path.parent.rmdir()
            removed.append(True)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with locked(path), pytest.raises(LockedError), locked(path):
        pass
    assert removed


def test_the_lock_of_somebody_else_stays(path: Path) -> None:
    with locked(path):
        path.unlink()
        path.touch()
    assert path.exists()


def test_no_descriptor_stays_open(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with locked(path), pytest.raises(LockedError), locked(path):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"cannot lock .*: No locks available") as caught, locked(path):
        pass
    assert "a file system that has locks" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/out.lmcli/lock", "No such file or directory"),
        ("file/lock", "Not a directory"),
        ("nowhere/lock", "No such file or directory"),
        ("folder/lock", "Is a directory"),
        ("link/lock", "Too many levels of symbolic links"),
        ("x" * 300 + "/lock", "File name too long"),
    ],
)
def test_a_lock_that_cannot_be_created(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "lock").mkdir(parents=True)
    (tmp_path / "nowhere").symlink_to("elsewhere")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "lock").symlink_to("elsewhere")
    with pytest.raises(OutputError) as caught, locked(tmp_path / name):
        pass
    assert caught.value.message == f"cannot create {tmp_path / name}: {message}"
