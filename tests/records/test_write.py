import json
from typing import Any

import pytest

from lmcli.errors import DataError
from lmcli.records.read import InputFormat
from lmcli.records.record import Failure, Record
from lmcli.records.tables import Header
from lmcli.records.write import OutputFormat, SlotEncoder, WriteOptions

HEADER = Header(b'"id",text', ("id", "text"))
TSV_HEADER = Header(b"id\ttext", ("id", "text"))
GOOD = {"s": {"label": "pos", "score": 0.5}}
COLUMNS = ("s.label", "s.score")
FAILURE = Failure("too_long", "900")
ERROR = b'"error":{"code":"too_long","message":"900","source":"in","line":7}'


def write(
    *records: Record,
    to: OutputFormat,
    of: InputFormat = "text",
    header: Header | None = None,
    columns: tuple[str, ...] = COLUMNS,
    for_terminal: bool = False,
) -> bytes:
    options = WriteOptions(
        format=to,
        input_format=of,
        lines=lambda record: [record.text],
        columns=columns,
        for_terminal=for_terminal,
    )
    slots = SlotEncoder(options, header)
    written = slots.preamble()
    for record in records:
        written += slots.slot(record, is_first=not written)
    return written


def good(text: str, raw: bytes | None = None) -> Record:
    return Record(text, "in", 7, raw=raw, fields=GOOD)


def failed(text: str, raw: bytes | None = None) -> Record:
    return Record(text, "in", 7, raw=raw, failure=FAILURE)


@pytest.mark.parametrize(
    ("to", "slots"),
    [("text", b"a\\nb\r\\nc\n\n\nd\0\n"), ("nul", b"a\nb\r\nc\0\0\0d\\0\0")],
)
def test_text_has_one_slot_for_each_record(to: OutputFormat, slots: bytes) -> None:
    assert write(good("a\nb\r\nc"), good(""), failed("x"), good("d\0"), to=to) == slots


@pytest.mark.parametrize(
    ("of", "header", "record", "line"),
    [
        pytest.param(
            "text",
            None,
            good("é\n"),
            '{"text":"é\\n","s":{"label":"pos","score":0.5}}'.encode(),
            id="text",
        ),
        pytest.param("text", None, failed("a"), b'{"text":"a",' + ERROR + b"}", id="failed text"),
        pytest.param(
            "jsonl",
            None,
            good("a", b'{"n":1.00}'),
            b'{"n":1.00,"s":{"label":"pos","score":0.5}}',
            id="object",
        ),
        pytest.param("jsonl", None, failed("a"), b"{" + ERROR[:-1] + b',"input":"a"}}', id="failed line"),
        pytest.param("jsonl", None, Record(""), b"{}", id="blank line"),
        pytest.param(
            "csv",
            HEADER,
            good("a,b", b'01,"a,b"'),
            b'{"id":"01","text":"a,b","s":{"label":"pos","score":0.5}}',
            id="row",
        ),
        pytest.param(
            "csv",
            HEADER,
            failed("a", b"01,a"),
            b'{"id":"01","text":"a",' + ERROR + b"}",
            id="failed row",
        ),
        pytest.param("csv", HEADER, failed("01"), b"{" + ERROR[:-1] + b',"input":"01"}}', id="ragged row"),
        pytest.param(
            "tsv",
            Header(b"text\terror", ("text", "error")),
            failed("a", b"a\tnone"),
            b"{" + ERROR[:-1] + b',"input":"a\\tnone"}}',
            id="failed row with a column error",
        ),
        pytest.param(
            "tsv",
            TSV_HEADER,
            good('"', b'1\t"'),
            b'{"id":"1","text":"\\"","s":{"label":"pos","score":0.5}}',
            id="tsv row",
        ),
    ],
)
def test_jsonl(of: InputFormat, header: Header | None, record: Record, line: bytes) -> None:
    assert write(record, to="jsonl", of=of, header=header) == line + b"\n"


@pytest.mark.parametrize(
    ("to", "of", "header", "record", "lines"),
    [
        pytest.param(
            "csv",
            "csv",
            HEADER,
            good("a", b'01,"a"'),
            b'"id",text,s.label,s.score\n01,"a",pos,0.5\n',
            id="row",
        ),
        pytest.param(
            "csv",
            "csv",
            HEADER,
            failed("a", b'01,"a"'),
            b'"id",text,s.label,s.score\n01,"a",,\n',
            id="failed row",
        ),
        pytest.param(
            "csv",
            "csv",
            HEADER,
            failed("1,2,3"),
            b'"id",text,s.label,s.score\n,,,\n',
            id="ragged row",
        ),
        pytest.param(
            "csv",
            "csv",
            HEADER,
            Record("", fields={"s": {"label": None}}),
            b'"id",text,s.label,s.score\n,,,\n',
            id="blank line",
        ),
        pytest.param(
            "tsv",
            "csv",
            HEADER,
            good("a", b'01,"a\tb""\n"'),
            b'id\ttext\ts.label\ts.score\n01\ta\\tb"\\n\tpos\t0.5\n',
            id="csv to tsv",
        ),
        pytest.param(
            "csv",
            "tsv",
            TSV_HEADER,
            good("a", b'01\t"a",'),
            b'id,text,s.label,s.score\n01,"""a"",",pos,0.5\n',
            id="tsv to csv",
        ),
        pytest.param(
            "tsv",
            "tsv",
            TSV_HEADER,
            good("", b'"\t'),
            b'id\ttext\ts.label\ts.score\n"\t\tpos\t0.5\n',
            id="tsv",
        ),
        pytest.param("csv", "text", None, good("a,b"), b'text,s.label,s.score\n"a,b",pos,0.5\n', id="text"),
        pytest.param("csv", "jsonl", None, failed("a", b"{}"), b"text,s.label,s.score\n,,\n", id="failed"),
    ],
)
def test_tables(
    to: OutputFormat, of: InputFormat, header: Header | None, record: Record, lines: bytes
) -> None:
    assert write(record, to=to, of=of, header=header) == lines


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("a", b"a"),
        (None, b""),
        (True, b"true"),
        (0, b"0"),
        (0.1, b"0.1"),
        ([], b"[]"),
        ([{"text": "A b", "start": 0}], b'[{"text":"A b","start":0}]'),
        ("x\ty\n", rb"x\ty\n"),
    ],
)
def test_cells(value: Any, cell: bytes) -> None:
    record = Record("t", fields={"f": value})
    assert write(record, to="tsv", columns=("f", "g")) == b"text\tf\tg\nt\t" + cell + b"\t\n"


@pytest.mark.parametrize(
    ("to", "of", "header", "output"),
    [
        ("text", "text", None, b""),
        ("jsonl", "csv", HEADER, b""),
        ("csv", "csv", HEADER, b'"id",text,s.label,s.score\n'),
        ("csv", "csv", None, b""),
        ("tsv", "text", None, b"text\ts.label\ts.score\n"),
    ],
)
def test_no_records(to: OutputFormat, of: InputFormat, header: Header | None, output: bytes) -> None:
    assert write(to=to, of=of, header=header) == output


def test_a_json_object_cannot_hold_a_column_twice() -> None:
    header = Header(b"text,n,n", ("text", "n", "n"))
    with pytest.raises(DataError, match="'n' occurs twice"):
        write(good("a", b"a,1,2"), to="jsonl", of="csv", header=header)


@pytest.mark.parametrize(
    ("to", "slot"),
    [("text", b"\\x1b[31m\\u009b\n"), ("nul", b"\\x1b[31m\\u009b\0"), ("tsv", b"text\n\\x1b[31m\\u009b\n")],
)
def test_controls_are_shown_on_a_terminal(to: OutputFormat, slot: bytes) -> None:
    assert write(Record("\x1b[31m\x9b"), to=to, columns=(), for_terminal=True) == slot


def test_json_stays_json_on_a_terminal() -> None:
    text = "\x1b\x7f\x9b\u202e"
    line = write(Record(text), to="jsonl", for_terminal=True)
    assert line.isascii()
    assert json.loads(line) == {"text": text}
