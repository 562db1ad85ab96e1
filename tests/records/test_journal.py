import errno
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lmcli.errors import LmcliError, ResumeError, StreamError
from lmcli.records import durable, folder, job, recovery, splice
from lmcli.records import journal as journal_module
from lmcli.records.compression import CODECS, codec_of, decompress
from lmcli.records.folder import state_dir
from lmcli.records.journal import Journal
from lmcli.records.recovery import recover
from tests.records.faults import Interrupt, failing, interrupting, power_cut, short_writes

NEVER = 1e9
IDENTITY = {"version": "1", "stages": [{"name": "ner", "options": {"threshold": 0.5}}]}
PREAMBLE = b"text,label\n"
NUM_RECORDS = 9
FAILING = frozenset({2, 3, 7})
DROPPED = frozenset({1, 8})
# A job is run three times: at first three records fail, then one of them, then none.
PHASES = [frozenset[int](), frozenset({3, 7}), FAILING]
SOURCES = tuple(str(module.__file__) for module in (journal_module, folder, job, recovery, splice, durable))


class Run:
    """Runs of one job, with what must hold from one to the next."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.num_durable = 0

    def __call__(self, repaired: frozenset[int] = FAILING) -> None:
        """Do what is left of the job, as a command would."""
        with Journal(self.target, IDENTITY, interval=NEVER) as journal:
            assert journal.position >= self.num_durable
            journal.begin(PREAMBLE)
            for index in journal.failed:
                if index in repaired:
                    journal.retry(index, slot(index, repaired), {"good": 1})
            for index in range(journal.position, NUM_RECORDS):
                is_failed = index in FAILING - repaired
                counts = {} if is_failed else {"good": 1}
                data = slot(index, repaired)
                journal.add(data, counts=counts, is_failed=is_failed, input_crc=index + 1)
                if index % 3 == 2:
                    journal.commit()
                    self.num_durable = journal.position
            journal.finish(codec_of(self.target.name))
            assert journal.position == journal.input_crc == NUM_RECORDS
            assert journal.failed == tuple(sorted(FAILING - repaired))
            assert journal.counts == {"good": NUM_RECORDS - len(journal.failed)}
            if not journal.failed:
                self.num_durable = 0
                journal.remove()

    def up_to(self, phase: int) -> None:
        for repaired in PHASES[:phase]:
            self(repaired)


def slot(index: int, repaired: frozenset[int]) -> bytes:
    if index in DROPPED:
        return b""
    return b"%d,\n" % index if index in FAILING - repaired else b"%d,h\xc3\xa4ll\xff\n" % index


def output(repaired: frozenset[int] = FAILING) -> bytes:
    return PREAMBLE + b"".join(slot(index, repaired) for index in range(NUM_RECORDS))


def content(path: Path) -> bytes | None:
    return b"".join(decompress(iter([path.read_bytes()]), "out")) if path.exists() else None


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs are slow, and only a power cut can tell whether they happened: `power_cut` counts the calls."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture(params=["out.csv", "out.csv.gz"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(journal_module, "_BUFFER", 16)
    (tmp_path / "jobs").mkdir()
    return Run(tmp_path / "jobs" / request.param)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


def add(journal: Journal, data: bytes, *, is_failed: bool = False) -> None:
    journal.add(data, counts={"n": 1}, is_failed=is_failed, input_crc=0)


def begin_unfinished(target: Path, identity: dict[str, Any] = IDENTITY) -> None:
    with Journal(target, identity) as journal:
        add(journal, b"one\n")


# A job without accidents.


def test_phases(run: Run) -> None:
    for repaired in PHASES:
        run(repaired)
        assert content(run.target) == output(repaired)
    assert list(state_dir(run.target).iterdir()) == []


def test_a_finished_job_with_failures_keeps_what_a_retry_needs(run: Run) -> None:
    run(PHASES[0])
    assert names(state_dir(run.target)) == ["job.json", "journal"]


def test_a_job_in_one_run_and_one_of_many_pieces_end_in_equal_files(run: Run, tmp_path: Path) -> None:
    Run(tmp_path / run.target.name)()
    for repaired in PHASES:
        run(repaired)
    assert run.target.read_bytes() == (tmp_path / run.target.name).read_bytes()


def test_a_new_journal(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        assert (journal.is_new, journal.is_complete, journal.position) == (True, False, 0)
        assert (journal.failed, journal.counts, journal.input_crc) == ((), {}, 0)


def test_what_was_added_is_there_again(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        journal.add(b"a\n", counts={"x": 1, "y": 2}, is_failed=False, input_crc=7)
        journal.add(b"\n", counts={"x": 9}, is_failed=True, input_crc=8)
        journal.add(b"b\n", counts={"x": 1}, is_failed=False, input_crc=9)
    with Journal(target, IDENTITY) as journal:
        assert (journal.is_new, journal.is_complete, journal.position) == (False, False, 3)
        assert (journal.failed, journal.counts, journal.input_crc) == ((1,), {"x": 2, "y": 2}, 9)


def test_the_part_has_whole_lines_after_a_commit(target: Path) -> None:
    with Journal(target, IDENTITY, interval=NEVER) as journal:
        journal.begin(b"head\n")
        add(journal, b"one\n")
        assert (state_dir(target) / "part").read_bytes() == b""
        journal.commit()
        assert (state_dir(target) / "part").read_bytes() == b"head\none\n"


def test_a_full_buffer_is_written_without_a_commit(target: Path) -> None:
    with Journal(target, IDENTITY, interval=NEVER) as journal:
        add(journal, bytes(1 << 16))
        assert (state_dir(target) / "part").stat().st_size == 1 << 16
        assert (state_dir(target) / "journal").read_bytes() == b""


def test_a_commit_comes_when_its_time_has(target: Path) -> None:
    with Journal(target, IDENTITY, interval=0) as journal:
        for _ in range(3):
            add(journal, b"x\n")
        assert (state_dir(target) / "journal").read_bytes().count(b"\n") == 3


def test_a_commit_of_nothing_writes_nothing(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        journal.commit()
        add(journal, b"")
        journal.commit()
        journal.commit()
        assert (state_dir(target) / "journal").read_bytes().count(b"\n") == 1


def test_the_preamble_is_written_once(target: Path) -> None:
    for _ in range(2):
        with Journal(target, IDENTITY) as journal:
            journal.begin(b"head\n")
    with Journal(target, IDENTITY) as journal:
        journal.finish()
    assert target.read_bytes() == b"head\n"


def test_an_empty_job_makes_an_empty_file(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        journal.finish()
        journal.remove()
    assert (target.read_bytes(), names(state_dir(target))) == (b"", [])


@pytest.mark.parametrize("suffix", CODECS)
def test_an_empty_job_makes_an_empty_archive(suffix: str, tmp_path: Path) -> None:
    with Journal(tmp_path / f"out{suffix}", IDENTITY) as journal:
        journal.finish(CODECS[suffix])
    assert content(tmp_path / f"out{suffix}") == b""


@pytest.mark.parametrize("suffix", CODECS)
def test_a_retry_in_an_archive(suffix: str, tmp_path: Path) -> None:
    run = Run(tmp_path / f"out{suffix}")
    run(PHASES[0])
    run(FAILING)
    assert content(run.target) == output()


def test_finish_again_changes_nothing(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        add(journal, b"one\n", is_failed=True)
        journal.finish()
        status = target.stat()
        journal.finish()
    with Journal(target, IDENTITY) as journal:
        assert (journal.is_complete, journal.failed) == (True, (0,))
        journal.finish()
    assert target.stat() == status


def test_a_slot_of_this_run_may_be_retried(target: Path) -> None:
    with Journal(target, IDENTITY, interval=NEVER) as journal:
        add(journal, b"bad\n", is_failed=True)
        journal.retry(0, b"good\n", {"n": 1})
        assert (journal.failed, journal.counts) == ((), {"n": 1})
    with Journal(target, IDENTITY) as journal:
        assert (journal.failed, journal.counts) == ((), {"n": 1})
        journal.finish()
    assert target.read_bytes() == b"good\n"


def test_only_a_failed_record_may_be_retried(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        add(journal, b"one\n")
        with pytest.raises(ValueError, match="record 0 has not failed"):
            journal.retry(0, b"", {})


def test_large_slots_come_through(target: Path) -> None:
    slots = [os.urandom(3_000_000), b"bad", os.urandom(70_000), b"bad", os.urandom(1_100_000)]
    with Journal(target, IDENTITY) as journal:
        for data in slots:
            add(journal, data, is_failed=data == b"bad")
        journal.retry(1, slots[2], {})
        journal.retry(3, b"", {})
        journal.finish()
    assert target.read_bytes() == slots[0] + slots[2] + slots[2] + slots[4]


# Where the output lies.


def test_of_a_link_the_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/out")
    begin_unfinished(tmp_path / "link")
    assert names(tmp_path / "deep") == ["out.lmcli"]
    with Journal(tmp_path / "deep/out", IDENTITY) as journal:
        journal.finish()
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "link").read_bytes()) == (True, b"one\n")


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_the_mode_of_a_replaced_file_is_kept_all_the_time(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (tmp_path / name).chmod(0o600)
    begin_unfinished(tmp_path / name)
    assert {path.stat().st_mode & 0o777 for path in state_dir(tmp_path / name).iterdir()} == {0o600}
    with Journal(tmp_path / name, IDENTITY) as journal:
        journal.finish(codec_of(name))
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_until_the_end_the_old_file_is_there(target: Path) -> None:
    target.write_bytes(b"old\n")
    begin_unfinished(target)
    assert target.read_bytes() == b"old\n"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"cannot write .*out: No such file or directory"):
        Journal(tmp_path / "no" / "out", IDENTITY)


# Another job.


def test_another_job_is_refused_with_what_differs(target: Path) -> None:
    begin_unfinished(target)
    other = {"version": "1", "stages": [{"name": "ner", "options": {"threshold": 0.7}}]}
    with pytest.raises(ResumeError) as caught:
        Journal(target, other)
    assert caught.value.message == (
        f"{target}.lmcli holds an unfinished job that is not this one: "
        "stages.0.options.threshold was 0.5, is now 0.7"
    )
    assert (caught.value.exit_code, "delete the folder" in caught.value.hint) == (73, True)
    with Journal(target, IDENTITY) as journal:
        assert journal.position == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"a": 1}, {}, "a was 1, is gone now"),
        ({}, {"a": [1]}, "a was not there, is now [1]"),
        ({"a": ["x"]}, {"a": ["x", "y"]}, 'a.1 was not there, is now "y"'),
        ({"a": {"b": 1}}, {"a": None}, 'a was {"b": 1}, is now null'),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, {}, "c was 1, is gone now; and 2 more"),
        ({"a": "x" * 99}, {"a": ""}, 'xxx..., is now ""'),
    ],
)
def test_differences(old: dict[str, Any], new: dict[str, Any], message: str, target: Path) -> None:
    begin_unfinished(target, old)
    with pytest.raises(ResumeError) as caught:
        Journal(target, new)
    assert caught.value.message.endswith(message)


def test_a_tuple_is_the_list_that_it_becomes(target: Path) -> None:
    begin_unfinished(target, {"inputs": ("a", "b")})
    with Journal(target, {"inputs": ("a", "b")}) as journal:
        assert journal.position == 1


def test_another_job_begins_anew_where_no_record_was_done(target: Path) -> None:
    with Journal(target, IDENTITY) as journal:
        journal.begin(b"old head\n")
    with Journal(target, {}) as journal:
        assert journal.is_new
        journal.begin(b"head\n")
        journal.finish()
    assert target.read_bytes() == b"head\n"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 99, "identity": {}}', None])
def test_an_unfinished_job_that_cannot_be_known_is_refused(damage: bytes | None, target: Path) -> None:
    begin_unfinished(target)
    path = state_dir(target) / "job.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ResumeError, match=r"its job.json is missing, damaged or of another version"):
        Journal(target, IDENTITY)


def test_a_damaged_job_without_a_journal_begins_anew(target: Path) -> None:
    begin_unfinished(target)
    (state_dir(target) / "job.json").write_bytes(b"{")
    (state_dir(target) / "journal").unlink()
    with Journal(target, IDENTITY) as journal:
        assert journal.is_new


def test_another_job_begins_anew_after_a_complete_one(run: Run) -> None:
    run(PHASES[0])
    with Journal(run.target, {}) as journal:
        assert (journal.is_new, journal.failed) == (True, ())
    assert content(run.target) == output(PHASES[0])


@pytest.mark.parametrize("change", [b"", b"changed\n", None])
def test_a_complete_output_that_was_changed_or_taken_is_begun_anew(change: bytes | None, run: Run) -> None:
    run(PHASES[0])
    run.target.unlink() if change is None else run.target.write_bytes(change)
    with Journal(run.target, IDENTITY) as journal:
        assert (journal.is_new, journal.failed) == (True, ())
    run.num_durable = 0
    run()
    assert content(run.target) == output()


def test_an_output_that_is_changed_during_a_retry_is_not_replaced(run: Run) -> None:
    run(PHASES[0])
    with Journal(run.target, IDENTITY) as journal:
        journal.retry(2, b"new\n", {})
        run.target.write_bytes(output(PHASES[0]).replace(b"0", b"1"))
        with pytest.raises(StreamError, match="what was written before has changed"):
            journal.finish()
    assert content(run.target) == output(PHASES[0]).replace(b"0", b"1")


# Damage.


@pytest.fixture
def small(target: Path) -> Path:
    """The folder of an unfinished job with several lines in its journal."""
    with Journal(target, IDENTITY, interval=NEVER) as journal:
        journal.begin(b"head\n")
        for index in range(6):
            add(journal, b"slot %d\n" % index, is_failed=index in (1, 4))
            journal.commit()
        journal.retry(1, b"retried\n", {"n": 1})
    return state_dir(target)


EXPECTED = b"head\nslot 0\nretried\nslot 2\nslot 3\nretried\nslot 5\n"


def check_recovers(target: Path) -> int:
    """That a run now ends well; how many records it found."""
    with Journal(target, IDENTITY, interval=NEVER) as journal:
        position = journal.position
        assert list(journal.failed) == [n for n in (1, 4) if n < position and n in journal.failed]
        assert journal.counts["n"] == position - len(journal.failed)
        journal.begin(b"head\n")
        for index in range(position, 6):
            add(journal, b"slot %d\n" % index, is_failed=index in (1, 4))
        for index in journal.failed:
            journal.retry(index, b"retried\n", {"n": 1})
        journal.finish()
        assert journal.counts == {"n": 6}
    assert target.read_bytes() == EXPECTED
    return position


def copies(small: Path, name: str) -> Iterator[tuple[bytes, dict[str, bytes]]]:
    files = {path.name: path.read_bytes() for path in small.iterdir()}
    for _ in range(len(files[name]) + 1):
        for other, data in files.items():
            (small / other).write_bytes(data)
        yield files[name], files


@pytest.mark.parametrize("name", ["journal", "part"])
def test_every_truncation_is_recovered(name: str, small: Path, target: Path) -> None:
    positions = []
    for length, (data, _) in enumerate(copies(small, name)):
        (small / name).write_bytes(data[:length])
        positions.append(check_recovers(target))
        target.unlink()
    assert positions == sorted(positions)
    assert (positions[0], positions[-1]) == (0, 6)


@pytest.mark.parametrize("name", ["journal", "part"])
def test_every_changed_byte_is_recovered(name: str, small: Path, target: Path) -> None:
    for place, (data, _) in enumerate(copies(small, name)):
        (small / name).write_bytes(
            data[:place] + bytes(byte ^ 1 for byte in data[place : place + 1]) + data[place + 1 :]
        )
        check_recovers(target)
        target.unlink()


@pytest.mark.parametrize(
    "tail", [bytes(100), b"\n" * 5, b" 00000000\n", b"{} " + b"%08x\n" % zlib.crc32(b"{}"), b"x" * 9]
)
@pytest.mark.parametrize("name", ["journal", "part"])
def test_a_foreign_tail_is_cut(name: str, tail: bytes, small: Path, target: Path) -> None:
    with (small / name).open("ab") as stream:
        stream.write(tail)
    assert check_recovers(target) == 6


def test_a_part_that_is_gone_is_written_anew(small: Path, target: Path) -> None:
    (small / "part").unlink()
    assert check_recovers(target) == 0


def test_a_line_about_a_record_that_never_failed_ends_the_history(small: Path) -> None:
    line = recovery.encode(recovery.Retry.of(3, b"x", {}))
    data = (small / "journal").read_bytes()
    history = recover(data + line, small / "part", small / "none")
    assert (history.end, history.state.records) == (len(data), 6)


def test_a_journal_is_lines_of_json_with_checksums(small: Path) -> None:
    for line in (small / "journal").read_bytes().splitlines():
        body, _, crc = line.rpartition(b" ")
        assert isinstance(json.loads(body), dict)
        assert int(crc, 16) == zlib.crc32(body)


# Accidents, each at every place where it can happen.


@pytest.fixture(params=range(len(PHASES)), ids=["first", "second", "last"])
def phase(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def check_after(run: Run, phase: int) -> None:
    """That after an accident in a phase the old or the new file is there, and all goes on."""
    assert content(run.target) in (output(PHASES[phase]), output(PHASES[phase - 1]) if phase else None)
    for repaired in PHASES[phase:]:
        run(repaired)
        assert content(run.target) == output(repaired)
    run.target.unlink()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("persists", [False, True])
def test_any_call_may_fail(error: int, persists: bool, phase: int, run: Run) -> None:
    for at in count(1):
        run.up_to(phase)
        with (
            failing(run.target.parent, at, error, persists=persists, is_short=error == errno.ENOSPC) as fault,
            suppress(StreamError),
        ):
            run(PHASES[phase])
        check_after(run, phase)
        if not fault.has_struck:
            assert at > 5
            break


def test_a_failed_call_is_told(run: Run) -> None:
    with failing(run.target.parent, 12, errno.ENOSPC), pytest.raises(StreamError) as caught:
        run()
    assert caught.value.message == f"cannot write {run.target}: No space left on device"
    assert caught.value.exit_code == 74


def test_after_a_failed_call_nothing_more_is_committed(target: Path) -> None:
    with suppress(StreamError), Journal(target, IDENTITY, interval=NEVER) as journal:
        add(journal, b"one\n")
        with failing(target.parent, 1, errno.EIO), suppress(StreamError):
            journal.commit()
        journal.commit()
        with pytest.raises(StreamError):
            add(journal, b"two\n")
        with pytest.raises(StreamError):
            journal.finish()
    assert (state_dir(target) / "journal").read_bytes() == b""


def test_the_first_failure_is_told_not_those_that_follow(target: Path) -> None:
    def fail() -> None:
        journal = Journal(target, IDENTITY, interval=NEVER)
        with failing(target.parent, 1, errno.EIO), journal:
            add(journal, b"one\n")
            raise LmcliError("the model is on fire")

    with pytest.raises(LmcliError, match="on fire"):
        fail()


def test_writes_may_be_short(run: Run) -> None:
    for repaired in PHASES:
        with short_writes(run.target.parent):
            run(repaired)
        assert content(run.target) == output(repaired)


@pytest.mark.parametrize("seed", range(4))
def test_the_power_may_go_at_any_time(seed: int, phase: int, run: Run) -> None:
    for at in count(1):
        run.up_to(phase)
        with power_cut(run.target.parent, at, seed * 1000 + at) as fault:
            run(PHASES[phase])
        if not fault.has_struck:
            assert at > 5
            assert content(run.target) == output(PHASES[phase])
            break
        check_after(run, phase)


@pytest.mark.parametrize("seed", range(4))
def test_the_power_may_go_as_another_job_begins(seed: int, run: Run) -> None:
    for at in count(1):
        with Journal(run.target, {}, interval=NEVER) as journal:
            add(journal, PREAMBLE, is_failed=True)
            journal.finish(codec_of(run.target.name))
        run.num_durable = 0
        with power_cut(run.target.parent, at, seed * 1000 + at) as fault:
            run(PHASES[0])
        run(PHASES[0])
        assert content(run.target) == output(PHASES[0])
        if not fault.has_struck:
            assert at > 5
            break


@pytest.mark.parametrize("seed", range(20))
def test_the_power_may_go_again_and_again(seed: int, run: Run) -> None:
    for at in count(2):
        with power_cut(run.target.parent, at, seed * 1000 + at) as fault:
            run(FAILING if seed % 2 else PHASES[seed % 3])
        if not fault.has_struck:
            break
    run()
    assert content(run.target) == output()


# A file that was just opened when the signal came is closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_may_come_between_any_two_bytecodes(phase: int, run: Run) -> None:
    for at in count(1 + phase, 17):  # all of them take a minute
        run.up_to(phase)
        with interrupting(at, *SOURCES) as fault, suppress(Interrupt):
            run(PHASES[phase])
        check_after(run, phase)
        if not fault.has_struck:
            assert at > 1000
            break
