"""Properties of reading and writing: any bytes, cut into any chunks, against a naive reference."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import DataError, LmcliError
from lmcli.records.compression import CODECS, Codec, decompress
from lmcli.records.encoding import iter_utf8
from lmcli.records.read import InputFormat, ReadOptions, RecordReader
from lmcli.records.record import Record
from lmcli.records.split import By, iter_lines
from lmcli.records.tables import TableFormat, iter_rows
from lmcli.records.write import OutputFormat, SlotEncoder, WriteOptions
from tests.records import reference

# Few different pieces, so that borders of all kinds meet; some are parts of characters.
PIECES = [b"a", b"b", b" ", b"\n", b"\r", b"\r\n", b"\0", b"\t", b",", b'"', b'""', b"\xc3", b"\xa9", b"\xff"]
PIECES += [b"\xe2\x80", b"\xa8", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\v", b"\f", b"\xc2\x85"]
DATA = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary(max_size=40)
TABLE = st.lists(st.sampled_from([b"a", b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\xff"]), max_size=30)
TEXTS = st.text(st.sampled_from("ab \t,\"\r\n\0\x1b\u2028\u0085é😀\\{}'"), max_size=12)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The data in chunks of these sizes, again and again."""
    start = 0
    while start < len(data):
        for size in sizes:
            if chunk := data[start : start + size]:
                yield chunk
            start += size


@contextmanager
def stdin_of(chunks: Iterator[bytes]) -> Iterator[None]:
    """A standard input that has the next chunk whenever it is read."""
    before = sys.stdin
    stream = SimpleNamespace(read=lambda _: next(chunks, b""), fileno=lambda: -1)
    sys.stdin = SimpleNamespace(buffer=stream)
    try:
        yield
    finally:
        sys.stdin = before


def read(data: bytes, sizes: Sequence[int], **options: Any) -> tuple[list[Record], RecordReader]:
    """All records of a standard input."""
    reader = RecordReader(["-"], ReadOptions(**options))
    with stdin_of(cut(data, sizes)):
        return list(reader), reader


def plain(data: bytes) -> bytes:
    """The data with nothing before it that says how to read it."""
    return b"a" + data


def is_utf_8(data: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return data.decode() is not None
    return False


@pytest.mark.parametrize("by", ["line", "para", "doc", "nul"])
@given(data=DATA, sizes=SIZES)
def test_texts_are_those_of_the_reference(by: By, data: bytes, sizes: list[int]) -> None:
    records, _ = read(plain(data), sizes, by=by)
    expected = reference.texts(plain(data), by)
    assert [(record.line, record.text) for record in records] == [
        (line, raw.decode(errors="replace")) for line, raw in expected
    ]
    assert [record.failure is None for record in records] == [is_utf_8(raw) for _, raw in expected]


@pytest.mark.parametrize("input_format", ["text", "jsonl", "csv", "tsv"])
@given(data=DATA, sizes=SIZES)
def test_records_are_the_same_however_they_come(
    input_format: InputFormat, data: bytes, sizes: list[int]
) -> None:
    def outcome(sizes: Sequence[int]) -> Any:
        try:
            return read(data, sizes, format=input_format, field=None)[0]
        except DataError as error:  # the only one that is documented for what an input holds
            return error.message

    assert outcome(sizes) == outcome([max(len(data), 1)])


LINES = st.one_of(
    st.dictionaries(st.sampled_from(["text", "a", "error"]), TEXTS | st.integers() | st.none()).map(
        json.dumps
    ),
    TEXTS.map(lambda text: json.dumps({"text": text}, ensure_ascii=False)),
    st.sampled_from(
        [
            '{"text":"a","error":{"code":"c","message":"m"}}',
            '{"text":"a","text":"b"}',
            '{"text":"\\ud800"}',
            '{"text":"a","n":[NaN]}',
            '{"text":"a","n":1e999}',
            ' { "text" : "a" } \r',
            '{"text":"a",}',
            "[]",
            '"text"',
        ]
    ),
).map(str.encode)


@given(lines=st.lists(LINES | DATA, max_size=5), sizes=SIZES)
def test_objects_are_those_of_the_reference(lines: list[bytes], sizes: list[int]) -> None:
    data = b"{}\n" + b"\n".join(lines)
    records, _ = read(data, sizes, format="jsonl")
    expected = [reference.json_text(line) for line in reference.lines_of(data)]
    assert [None if record.failure else record.text for record in records] == expected
    assert [record.line for record in records] == list(range(1, len(records) + 1))


@pytest.mark.parametrize(
    ("table_format", "rows_of"), [("csv", reference.csv_rows), ("tsv", reference.tsv_rows)]
)
@given(data=TABLE.map(b"".join) | DATA, sizes=SIZES)
def test_rows_are_those_of_the_reference(
    table_format: TableFormat, rows_of: Callable[[bytes], list[reference.Row]], data: bytes, sizes: list[int]
) -> None:
    rows = list(iter_rows(iter_lines(cut(data, sizes)), table_format))
    expected = rows_of(data)
    assert [(row.line, row.raw) for row in rows] == [(row.line, row.raw) for row in expected]
    assert [row.cells for row in rows] == [row.cells or [] for row in expected]
    is_good = [row.cells is not None and is_utf_8(row.raw) for row in expected]
    assert [row.failure is None for row in rows] == is_good


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-7", "gb18030", "iso2022_jp_2004"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text(st.sampled_from("ab\n\r+-~\\é日"), max_size=20), sizes=SIZES)
def test_every_encoding_comes_out_as_utf_8(encoding: str, text: str, sizes: list[int]) -> None:
    assert b"".join(iter_utf8(cut(text.encode(encoding), sizes), encoding)) == text.encode()


@given(text=TEXTS, encoding=st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]), sizes=SIZES)
def test_a_byte_order_mark_tells_the_encoding(text: str, encoding: str, sizes: list[int]) -> None:
    text = f"a{text}"  # behind the mark of UTF-16 a NUL would make it that of UTF-32
    assert b"".join(iter_utf8(cut(text.encode(encoding), sizes))) == text.encode()


@pytest.mark.parametrize("encoding", [*ENCODINGS, "latin-1", "cp1252", "ascii", "idna", "punycode", "hz"])
@given(data=DATA, sizes=SIZES)
def test_bytes_in_a_wrong_encoding_are_no_crash(encoding: str, data: bytes, sizes: list[int]) -> None:
    with suppress(DataError):
        read(data, sizes, encoding=encoding)


def compress(data: bytes, codec: Codec) -> bytes:
    stream = io.BytesIO()
    with codec.open_writer(stream) as writer:
        writer.write(data)
    return stream.getvalue()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(members=st.lists(st.binary(max_size=30), min_size=1, max_size=3), sizes=SIZES)
def test_members_are_read_one_after_another(codec: Codec, members: list[bytes], sizes: list[int]) -> None:
    data = b"".join(compress(member, codec) for member in members)
    assert b"".join(decompress(cut(data, sizes), "in")) == b"".join(members)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(data=st.binary(max_size=60), keep=st.integers(12, 200), sizes=SIZES)
def test_what_is_cut_off_is_an_error_behind_what_was_there(
    codec: Codec, data: bytes, keep: int, sizes: list[int]
) -> None:
    compressed = compress(data, codec)
    pieces: list[bytes] = []
    try:
        pieces.extend(decompress(cut(compressed[:keep], sizes), "in"))
        assert keep >= len(compressed)
    except DataError:
        assert keep < len(compressed)
    assert data.startswith(b"".join(pieces))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(data=st.binary(max_size=60), place=st.integers(0), flip=st.integers(1, 255), sizes=SIZES)
def test_damage_is_no_crash(codec: Codec, data: bytes, place: int, flip: int, sizes: list[int]) -> None:
    compressed = bytearray(compress(data, codec))
    compressed[place % len(compressed)] ^= flip
    with suppress(DataError):
        list(decompress(cut(bytes(compressed), sizes), "in"))


def write(
    records: Sequence[Record], reader: RecordReader, output_format: OutputFormat, *columns: str
) -> bytes:
    """All slots of the records."""
    options = WriteOptions(
        format=output_format,
        input_format=reader.format,
        lines=lambda record: [record.text],
        columns=columns,
    )
    encoder = SlotEncoder(options, reader.header)
    slots = (encoder.slot(record, is_first=number == 0) for number, record in enumerate(records))
    return encoder.preamble() + b"".join(slots)


def labelled(records: Sequence[Record], value: Any) -> list[Record]:
    return [record.with_fields(new=value) if record.failure is None else record for record in records]


@pytest.mark.parametrize("output_format", ["text", "nul"])
@given(texts=st.lists(TEXTS, max_size=5))
def test_every_text_has_one_slot(output_format: OutputFormat, texts: list[str]) -> None:
    _, reader = read(b"", [1])
    data = write([Record(text) for text in texts], reader, output_format)
    assert data.count(b"\n" if output_format == "text" else b"\0") == len(texts)


@pytest.mark.parametrize("input_format", ["text", "jsonl", "csv", "tsv"])
@given(data=DATA, value=TEXTS)
def test_every_record_becomes_an_object_that_is_read_again(
    input_format: InputFormat, data: bytes, value: str
) -> None:
    head = {"text": b"", "jsonl": b"", "csv": b"text,id\n", "tsv": b"text\tid\n"}[input_format]
    with suppress(DataError):
        records, reader = read(head + data, [64], format=input_format, adds=("new",), columns=("new",))
        out = write(labelled(records, value), reader, "jsonl")
        again, _ = read(out, [64], format="jsonl")
        assert len(again) == len(records)
        for before, after in zip(records, again, strict=True):
            if before.failure is not None:
                assert after.failure == before.failure
                continue
            assert after.failure is None or (before.raw is None and input_format != "text")
            assert after.values()["new"] == value
            if before.raw is not None:
                assert after.text == before.text


@pytest.mark.parametrize("table_format", ["csv", "tsv"])
@pytest.mark.parametrize("input_format", ["text", "csv", "tsv"])
@given(data=DATA | TABLE.map(b"".join), value=TEXTS)
def test_every_record_becomes_a_row_that_is_read_again(
    input_format: Literal["text", "csv", "tsv"], table_format: TableFormat, data: bytes, value: str
) -> None:
    head = {"text": b"", "csv": b"text,id\n", "tsv": b"text\tid\n"}[input_format]
    with suppress(DataError):
        records, reader = read(head + data, [64], format=input_format, adds=("new",), columns=("new",))
        out = write(labelled(records, value), reader, table_format, "new")
        again, _ = read(out, [64], format=table_format)
        assert [record.failure for record in again] == [None] * len(records)
        for before, after in zip(records, again, strict=True):
            row = after.values()
            assert row["new"] == ("" if before.failure is not None else shown(value, table_format))
            if before.failure is None and (input_format == "text" or before.raw is not None):
                is_carried = input_format == table_format
                assert row["text"] == (before.text if is_carried else shown(before.text, table_format))


def shown(text: str, table_format: TableFormat) -> str:
    if table_format == "csv":
        return text
    return text.replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


@given(table=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=4), value=TEXTS)
def test_a_written_csv_is_read_by_others(table: list[list[str]], value: str) -> None:
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([["text", "id"], *table])
    records, reader = read(rows.getvalue().encode(), [64], format="csv")
    out = write(labelled(records, value), reader, "csv", "new")
    parsed = list(csv.reader(io.StringIO(out.decode(), newline=""), strict=True))
    assert parsed == [["text", "id", "new"], *([*row, value] for row in table)]


@given(names=st.lists(DATA, max_size=3), sizes=SIZES)
def test_no_list_of_inputs_crashes(names: list[bytes], sizes: list[int]) -> None:
    from lmcli.records.source import files_from

    with stdin_of(cut(b"\n".join(names), sizes)), suppress(LmcliError):
        files_from("-")
