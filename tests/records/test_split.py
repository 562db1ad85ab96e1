from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.records.split import By, iter_lines, split


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize(
    ("by", "data", "records"),
    [
        pytest.param("line", b"", [], id="empty file"),
        pytest.param("line", b"a\nb\n", [(1, b"a"), (2, b"b")], id="final newline"),
        pytest.param("line", b"a\nb", [(1, b"a"), (2, b"b")], id="no final newline"),
        pytest.param("line", b"\na\n\n", [(1, b""), (2, b"a"), (3, b"")], id="empty lines"),
        pytest.param("line", b"a\r\nb\r\n", [(1, b"a"), (2, b"b")], id="crlf"),
        pytest.param("line", b"a\rb\r", [(1, b"a\rb\r")], id="lone cr is text"),
        pytest.param("line", b"a\r\r\n", [(1, b"a\r")], id="one cr before lf is dropped"),
        pytest.param("line", b"a\vb\fc\0d\0", [(1, b"a\vb\fc\0d\0")], id="vt ff nul are text"),
        pytest.param("line", "a\u2028b\u0085c\n".encode(), [(1, "a\u2028b\u0085c".encode())], id="unicode"),
        pytest.param("para", b"", [], id="para: empty file"),
        pytest.param("para", b"\n \n\t\r\n", [], id="para: blank lines only"),
        pytest.param("para", b"a\nb\n\n\nc", [(1, b"a\nb"), (5, b"c")], id="para"),
        pytest.param("para", b"\n\na\r\nb\r\n\r\nc\r\n", [(3, b"a\nb"), (6, b"c")], id="para: crlf"),
        pytest.param("doc", b"", [(1, b"")], id="doc: empty file"),
        pytest.param("doc", b"a\n\nb\n", [(1, b"a\n\nb")], id="doc: final newline"),
        pytest.param("doc", b"a\n\n", [(1, b"a\n")], id="doc: only one newline dropped"),
        pytest.param("doc", b"a\r\nb\r\n", [(1, b"a\nb")], id="doc: crlf"),
        pytest.param("doc", b"a\0", [(1, b"a\0")], id="doc: nul is text"),
        pytest.param("nul", b"", [], id="nul: empty file"),
        pytest.param("nul", b"a\nb\0\0c", [(1, b"a\nb"), (2, b""), (2, b"c")], id="nul"),
        pytest.param("nul", b"a\r\nb\r\0c\0", [(1, b"a\nb\r"), (2, b"c")], id="nul: crlf"),
    ],
)
def test_split(by: By, data: bytes, records: list[tuple[int, bytes]]) -> None:
    assert list(split(cut(data, 64), by)) == records


# Few different characters, so that borders of all kinds meet.
TEXTS = st.text("ab \r\n\0\u2028", max_size=40)


def lines_of(text: str) -> list[str]:
    lines = text.split("\n")
    ended = [line.removesuffix("\r") for line in lines[:-1]]
    return ended + lines[-1:] if lines[-1] else ended


def paragraphs_of(text: str) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in lines_of(text):
        if line.strip(" \r"):
            blocks[-1].append(line)
        else:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


def nul_records_of(text: str) -> list[str]:
    pieces = text.split("\0")
    return [piece.replace("\r\n", "\n") for piece in (pieces if pieces[-1] else pieces[:-1])]


@pytest.mark.parametrize(
    ("by", "reference"),
    [("line", lines_of), ("para", paragraphs_of), ("nul", nul_records_of)],
    ids=["line", "para", "nul"],
)
@given(text=TEXTS, size=st.integers(1, 9))
def test_split_equals_reference_however_chunked(
    by: By, reference: type[list[str]], text: str, size: int
) -> None:
    records = split(cut(text.encode(), size), by)
    assert [data.decode() for _, data in records] == reference(text)


@given(text=TEXTS, size=st.integers(1, 9))
def test_lines_joined_are_the_input(text: str, size: int) -> None:
    assert b"".join(iter_lines(cut(text.encode(), size))) == text.encode()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("by", ["line", "para", "doc", "nul"])
def test_a_record_of_50_megabytes_takes_linear_time(by: By) -> None:
    data = b"x" * 50_000_000
    assert list(split(cut(data, 4096), by)) == [(1, data)]


def test_what_was_damaged_is_no_record() -> None:
    def damaged() -> Iterator[bytes]:
        yield b"a\nb"
        raise EOFError

    records = split(damaged(), "line")
    assert next(records) == (1, b"a")
    with pytest.raises(EOFError):
        next(records)
