import json
from pathlib import Path

import pytest

from lmcli.errors import OutputError, StreamError
from lmcli.records.errorlog import ErrorLog
from lmcli.records.read import ReadOptions, RecordReader
from lmcli.records.record import Record


def test_failed_records_are_logged_at_once(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    with ErrorLog(str(path)) as log:
        log.write(Record("fine"))
        log.write(Record("é", "in", 7, raw=b'{"n":1.0}').failed("too_long", "900"))
        log.write(Record("a\ufffd\n", "-", 8).failed("invalid_encoding", "byte 1"))
        lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": "in", "line": 7, "code": "too_long", "message": "900", "input": '{"n":1.0}'},
        {
            "source": "-",
            "line": 8,
            "code": "invalid_encoding",
            "message": "byte 1",
            "input": "a\ufffd\n",
        },
    ]


def test_failed_records_can_be_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "errors.jsonl")
    with ErrorLog(path) as log:
        log.write(Record("one\ntwo", "in", 7).failed("too_long", "900"))
    (again,) = RecordReader([path], ReadOptions(field="input"))
    assert (again.text, again.failure) == ("one\ntwo", None)


def test_an_old_log_does_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    path.write_text("old")
    with ErrorLog(str(path)):
        pass
    assert path.read_bytes() == b""


def test_a_log_that_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as refused:
        ErrorLog(str(tmp_path / "no" / "log"))
    assert refused.value.message == f"cannot create {tmp_path}/no/log: No such file or directory"


def test_a_log_on_a_full_disk() -> None:
    log = ErrorLog("/dev/full")
    with pytest.raises(StreamError) as failed:
        log.write(Record("a").failed("too_long", "900"))
    assert failed.value.message == "cannot write /dev/full: No space left on device"
    log.close()
