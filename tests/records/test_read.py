import bz2
import codecs
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcli.errors import DataError, LmcliError, NoInputError, UsageError
from lmcli.records.read import InputFormat, ReadOptions, RecordReader, column_names, resolve_format
from lmcli.records.record import Failure, Record
from lmcli.records.tables import Header
from lmcli.records.zstd import ZstdFile


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def compress_zstd(data: bytes) -> bytes:
    archive = io.BytesIO()
    with ZstdFile(archive, "wb") as writer:
        writer.write(data)
    return archive.getvalue()


def put(**contents: bytes) -> list[str]:
    """Write files, `a_csv` as `a.csv`, and return their names."""
    names = [name.replace("_", ".") for name in contents]
    for name, content in zip(names, contents.values(), strict=True):
        Path(name).write_bytes(content)
    return names


def test_texts_of_several_inputs() -> None:
    records = RecordReader(put(a_txt=b"one\r\n\ntwo", b_log=b"th\xff\n"))
    failure = Failure("invalid_encoding", "not valid UTF-8 at byte 2 (0xff)")
    assert list(records) == [
        Record("one", "a.txt", 1),
        Record("", "a.txt", 2),
        Record("two", "a.txt", 3),
        Record("th\ufffd", "b.log", 1, failure=failure),
    ]


def test_every_file_is_a_document() -> None:
    records = RecordReader(put(a_txt=b"", b_txt=b"x\ny\n"), ReadOptions(by="doc"))
    assert list(records) == [Record("", "a.txt", 1), Record("x\ny", "b.txt", 1)]


def test_objects() -> None:
    lines = b'{"text":"a"}\r\n\n{"text":"b"}'
    assert list(RecordReader(put(a_jsonl=lines))) == [
        Record("a", "a.jsonl", 1, raw=b'{"text":"a"}'),
        Record("", "a.jsonl", 2),
        Record("b", "a.jsonl", 3, raw=b'{"text":"b"}'),
    ]


def test_raw_objects_are_utf8_whatever_the_input_is() -> None:
    names = put(a_jsonl=codecs.BOM_UTF16_LE + '{"text":"é"}\n'.encode("utf-16-le"))
    raw = '{"text":"é"}'.encode()
    assert list(RecordReader(names)) == [Record("é", "a.jsonl", 1, raw=raw)]


def test_a_table() -> None:
    reader = RecordReader(put(a_csv=b'id,text\n1,"x\ny"\n\n2\n3,"z"q\n4,\xff\n5,w\n'))
    assert list(reader) == [
        Record("x\ny", "a.csv", 2, raw=b'1,"x\ny"'),
        Record("", "a.csv", 4),
        Record("2", "a.csv", 5, failure=Failure("ragged_row", "1 cell where the header has 2")),
        Record(
            '3,"z"q',
            "a.csv",
            6,
            failure=Failure("invalid_csv", "not valid CSV: ',' expected after '\"'"),
        ),
        Record(
            "4,\ufffd",
            "a.csv",
            7,
            failure=Failure("invalid_encoding", "not valid UTF-8 at byte 2 (0xff)"),
        ),
        Record("w", "a.csv", 8, raw=b"5,w"),
    ]
    assert reader.header == Header(b"id,text", ("id", "text"))


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("a.txt", b"one\n", [{}]),
        ("a.jsonl", b'{"text":"a","n":[1.50]}\n\n', [{"text": "a", "n": [1.5]}, {}]),
        ("a.csv", b'text,n\n"a\nb",1\n', [{"text": "a\nb", "n": "1"}]),
        ("a.tsv", b"text\tn\n\ta,b\n", [{"text": "", "n": "a,b"}]),
    ],
    ids=["text", "objects", "CSV", "TSV"],
)
def test_the_values_of_a_record(name: str, content: bytes, values: list[dict[str, object]]) -> None:
    Path(name).write_bytes(content)
    assert [record.values() for record in RecordReader([name])] == values


def test_what_failed_has_no_values() -> None:
    records = list(RecordReader(put(a_csv=b"text,n\na\n", b_csv=b"text,n\nb,1,2\n")))
    assert all(record.failure is not None for record in records)
    assert [record.values() for record in records] == [{}, {}]


def test_without_a_field_records_have_values_only() -> None:
    objects = RecordReader(put(a_jsonl=b'{"q":"a"}\n'), ReadOptions(field=None))
    assert [(record.text, record.values()) for record in objects] == [("", {"q": "a"})]
    rows = RecordReader(put(a_csv=b"q\na\n"), ReadOptions(field=None))
    assert [(record.text, record.values()) for record in rows] == [("", {"q": "a"})]


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"q,a b\n1,2\n", ("q", "a b")), (b"\xef\xbb\xbfq\n", ("q",)), (b"", None), (b"q,\xff\n", None)],
    ids=["columns", "byte order mark", "empty", "unusable"],
)
def test_the_columns_of_a_table(content: bytes, names: tuple[str, ...] | None) -> None:
    Path("a.csv").write_bytes(content)
    Path("a.csv.gz").write_bytes(gzip.compress(content))
    assert column_names("a.csv", "csv") == column_names("a.csv.gz", "csv") == names


def test_columns_in_another_encoding() -> None:
    [name] = put(a_tsv="a\té\n".encode("latin-1"))
    assert column_names(name, "tsv", "latin-1") == ("a", "é")


def test_what_can_be_read_only_once_tells_no_columns() -> None:
    os.mkfifo("a.csv")
    assert column_names("-", "csv") is None
    assert column_names("a.csv", "csv") is None


def test_a_blank_line_of_one_column_is_an_empty_cell() -> None:
    records = RecordReader(put(a_tsv=b"text\n\nx\n"))
    assert list(records) == [Record("", "a.tsv", 2, raw=b""), Record("x", "a.tsv", 3, raw=b"x")]


def test_tables_of_equal_headers() -> None:
    reader = RecordReader(put(a_csv=b"", b_csv=b'"text",n\r\na,1\n', c_csv=b"text,n\nb,2\n"))
    assert [record.text for record in reader] == ["a", "b"]
    assert reader.header == Header(b'"text",n', ("text", "n"))


@pytest.mark.parametrize(
    ("contents", "options", "message"),
    [
        pytest.param(
            {"a_csv": b"id,body\n"},
            ReadOptions(),
            "a.csv: no column 'text'; its columns are id, body",
            id="no such column",
        ),
        pytest.param(
            {"a_csv": b"text,n\n", "b_csv": b"n,text\n"},
            ReadOptions(),
            "b.csv: its columns are n, text; those of the table before it: text, n",
            id="other columns",
        ),
        pytest.param(
            {"a_tsv": b"text\tner\n"},
            ReadOptions(adds=("ner",)),
            "a.tsv: it has a column 'ner' already",
            id="field exists",
        ),
        pytest.param(
            {"a_csv": b"text,ner.label\n"},
            ReadOptions(adds=("ner",), columns=("ner.label",)),
            "a.csv: it has a column 'ner.label' already",
            id="column exists",
        ),
        pytest.param(
            {"a_csv": b"text,\xff\n"},
            ReadOptions(),
            "a.csv: unusable header: not valid UTF-8 at byte 5 (0xff)",
            id="header encoding",
        ),
    ],
)
def test_unusable_tables(contents: dict[str, bytes], options: ReadOptions, message: str) -> None:
    with pytest.raises(DataError) as refused:
        list(RecordReader(put(**contents), options))
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("name", "input_format"),
    [
        ("-", "text"),
        ("a", "text"),
        ("a.csv.txt", "text"),
        ("a.JSONL", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.csv.zst", "csv"),
        ("a.tsv", "tsv"),
        ("a.tab.xz", "tsv"),
    ],
)
def test_format_by_suffix(name: str, input_format: InputFormat) -> None:
    assert resolve_format([name]) == input_format


def test_format_by_option() -> None:
    assert resolve_format(["a.csv", "b.txt"], "jsonl") == "jsonl"


def test_formats_do_not_mix() -> None:
    with pytest.raises(UsageError) as refused:
        resolve_format(["a.txt", "b.txt", "c.csv"])
    assert (refused.value.message, refused.value.hint) == (
        "the inputs are of different formats: a.txt is text, c.csv is csv",
        "choose one with -I",
    )


@pytest.mark.parametrize(
    ("inputs", "options", "error"),
    [
        (["missing"], {}, NoInputError),
        (["-", "-"], {}, UsageError),
        (["-"], {"encoding": "utf-99"}, UsageError),
    ],
    ids=["missing", "stdin twice", "encoding"],
)
def test_refused_before_anything_is_read(
    inputs: list[str], options: dict[str, str], error: type[LmcliError]
) -> None:
    with pytest.raises(error):
        RecordReader(inputs, ReadOptions(encoding=options.get("encoding")))


@pytest.mark.parametrize(
    ("suffix", "compress", "name"),
    [
        ("gz", gzip.compress, "gzip"),
        ("bz2", bz2.compress, "bzip2"),
        ("xz", lzma.compress, "xz"),
        ("zst", compress_zstd, "zstd"),
    ],
    ids=["gz", "bz2", "xz", "zst"],
)
def test_records_before_the_damage_are_delivered(
    suffix: str, compress: Callable[[bytes], bytes], name: str
) -> None:
    data = compress(b"one\ntwo\n") + compress(b"three\nfour")[:-1]
    records = iter(RecordReader(put(**{f"a_{suffix}": data})))
    whole = [next(records).text, next(records).text, next(records).text]
    assert whole == ["one", "two", "three"]
    with pytest.raises(DataError) as damaged:
        next(records)
    assert damaged.value.message == f"a.{suffix}: truncated {name} data"


def test_no_inputs_no_records() -> None:
    assert list(RecordReader([])) == []


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, compress_zstd],
    ids=["gz", "bz2", "xz", "zst"],
)
@pytest.mark.parametrize("dropped", [0, 1], ids=["whole", "truncated"])
def test_pipes_are_decompressed_too(compress: Callable[[bytes], bytes], dropped: int) -> None:
    reading, writing = os.pipe()
    data = compress(b"one\n") + compress(b"two")
    os.write(writing, data[: len(data) - dropped])
    os.close(writing)
    records = iter(RecordReader([f"/dev/fd/{reading}"]))
    assert next(records).text == "one"
    if dropped:
        with pytest.raises(DataError):
            next(records)
    else:
        assert [record.text for record in records] == ["two"]
    os.close(reading)


def test_a_record_comes_while_its_pipe_stays_open() -> None:
    reading, writing = os.pipe()
    records = iter(RecordReader([f"/dev/fd/{reading}"]))
    os.write(writing, b"B\nsecond")
    assert next(records).text == "B"
    os.close(writing)
    assert next(records).text == "second"
    os.close(reading)
