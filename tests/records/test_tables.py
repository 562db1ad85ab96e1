import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.records.record import Failure
from lmcli.records.split import iter_lines
from lmcli.records.tables import (
    Row,
    TableFormat,
    append_cells,
    format_cells,
    iter_rows,
    parse_cells,
)


def rows_of(data: bytes, table_format: TableFormat) -> list[Row]:
    return list(iter_rows(iter_lines([data]), table_format))


@pytest.mark.parametrize(
    ("table_format", "data", "rows"),
    [
        pytest.param("csv", b"", [], id="csv: empty"),
        pytest.param("csv", b"a,b\n1,2", [Row(1, b"a,b", ["a", "b"]), Row(2, b"1,2", ["1", "2"])], id="csv"),
        pytest.param(
            "csv",
            b'"a ""x"", b\r\nc",1\r\n2\r\n',
            [Row(1, b'"a ""x"", b\r\nc",1', ['a "x", b\r\nc', "1"]), Row(3, b"2", ["2"])],
            id="csv: quoted cell over two lines",
        ),
        pytest.param(
            "csv", b"\r\n\n1\r", [Row(1, b"", []), Row(2, b"", []), Row(3, b"1", ["1"])], id="blank"
        ),
        pytest.param("csv", b' a , "b"\n', [Row(1, b' a , "b"', [" a ", ' "b"'])], id="csv: blanks"),
        pytest.param("tsv", b"", [], id="tsv: empty"),
        pytest.param(
            "tsv",
            b'"a\tb"\r\n\nc\\t\rd\t',
            [Row(1, b'"a\tb"', ['"a', 'b"']), Row(2, b"", []), Row(3, b"c\\t\rd\t", ["c\\t\rd", ""])],
            id="tsv: no quoting, no escapes",
        ),
    ],
)
def test_rows(table_format: TableFormat, data: bytes, rows: list[Row]) -> None:
    assert rows_of(data, table_format) == rows


@pytest.mark.parametrize(
    ("table_format", "data", "bad"),
    [
        pytest.param(
            "csv",
            b'"x"y,1\nok\n',
            Row(1, b'"x"y,1', [], Failure("invalid_csv", "not valid CSV: ',' expected after '\"'")),
            id="quote inside",
        ),
        pytest.param(
            "csv",
            b'\xff,"a\nb"\nok\n',
            Row(
                1,
                b'\xff,"a\nb"',
                ["\udcff", "a\nb"],
                Failure("invalid_encoding", "not valid UTF-8 at byte 0 (0xff)"),
            ),
            id="csv: encoding",
        ),
        pytest.param(
            "tsv",
            b"a\xff\nok\n",
            Row(
                1,
                b"a\xff",
                ["a\ufffd"],
                Failure("invalid_encoding", "not valid UTF-8 at byte 1 (0xff)"),
            ),
            id="tsv: encoding",
        ),
    ],
)
def test_a_bad_row_fails_alone(table_format: TableFormat, data: bytes, bad: Row) -> None:
    first, second = rows_of(data, table_format)
    assert (first, second.cells) == (bad, ["ok"])


def test_a_quote_never_closed_costs_its_own_line_only() -> None:
    failure = Failure("invalid_csv", "not valid CSV: unexpected end of data")
    assert rows_of(b'ok\n"a\nb\nc\n', "csv") == [
        Row(1, b"ok", ["ok"]),
        Row(2, b'"a', [], failure),
        Row(3, b"b", ["b"]),
        Row(4, b"c", ["c"]),
    ]


def test_a_quote_is_not_looked_for_in_the_whole_file() -> None:
    lines = b"".join(b"%d\n" % number for number in range(12_000))
    rows = rows_of(b'"a\n' + lines, "csv")
    assert rows[0].failure == Failure(
        "invalid_csv", "not valid CSV: a quoted cell goes on for more than 10000 lines"
    )
    assert [row.cells for row in rows[1:]] == [[str(number)] for number in range(12_000)]


def test_a_cell_may_be_large() -> None:
    assert rows_of(b"x" * 200_000, "csv")[0].cells == ["x" * 200_000]


@pytest.mark.parametrize(
    ("table_format", "cells", "row"),
    [
        pytest.param("csv", ["a", "", "b c"], b"a,,b c", id="csv: plain"),
        pytest.param("csv", ['q"', "x,y"], b'"q""","x,y"', id="csv: quoted"),
        pytest.param("csv", ["a\nb", "a\rb"], b'"a\nb","a\rb"', id="csv: newlines"),
        pytest.param("csv", [""], b'""', id="csv: one empty cell"),
        pytest.param("tsv", ["a", "", '"b"'], b'a\t\t"b"', id="tsv: plain"),
        pytest.param("tsv", ["a\tb", "c\r\nd"], rb"a\tb	c\r\nd", id="tsv: escapes"),
    ],
)
def test_format_cells(table_format: TableFormat, cells: list[str], row: bytes) -> None:
    assert format_cells(cells, table_format) == row


@pytest.mark.parametrize(
    ("raw", "cells", "row"),
    [(b'"a"', [], b'"a"'), (b'"a"', ["", "b,c"], b'"a",,"b,c"'), (b"", ["b"], b",b")],
    ids=["nothing", "cells", "to an empty cell"],
)
def test_append_cells(raw: bytes, cells: list[str], row: bytes) -> None:
    assert append_cells(raw, cells, "csv") == row


CELLS = st.lists(st.text(st.sampled_from('ab ,"\r\n\té'), max_size=6), min_size=1, max_size=4)
TABLES = st.lists(CELLS, max_size=5)


@given(TABLES)
def test_csv_equals_the_standard_library(table: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(table)
    data = text.getvalue().encode()
    rows = rows_of(data, "csv")
    assert [row.cells for row in rows] == table
    assert b"".join(row.raw + b"\r\n" for row in rows) == data
    assert [parse_cells(row.raw, "csv") for row in rows] == table


@given(TABLES)
def test_tsv_keeps_cells_without_controls(table: list[list[str]]) -> None:
    data = b"".join(format_cells(cells, "tsv") + b"\n" for cells in table)
    expected = [
        [cell.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r") for cell in cells]
        for cells in table
    ]
    rows = rows_of(data, "tsv")
    assert [parse_cells(row.raw, "tsv") for row in rows] == expected


@given(CELLS, CELLS, st.sampled_from(["csv", "tsv"]))
def test_appended_cells_come_back(old: list[str], new: list[str], table_format: TableFormat) -> None:
    raw = format_cells(old, table_format)
    row = append_cells(raw, new, table_format)
    assert row.startswith(raw)
    assert parse_cells(row, table_format) == [
        *parse_cells(raw, table_format),
        *parse_cells(format_cells(new, table_format), table_format),
    ]


@pytest.mark.timeout(20)
def test_a_table_in_which_every_row_is_bad_takes_linear_time() -> None:
    rows = iter_rows((b'"x"y,1\n' for _ in range(200_000)), "csv")
    assert sum(row.failure is not None for row in rows) == 200_000
