import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import DataError, UsageError
from lmcli.records.encoding import check_encoding, decode, iter_utf8
from lmcli.records.record import Failure
from lmcli.records.split import split


def texts_of(data: bytes, encoding: str | None = None, size: int = 1000) -> list[str | None]:
    """The text of each line; None for one that fails."""
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    decoded = (decode(line) for _, line in split(iter_utf8(chunks, encoding), "line"))
    return [text if failure is None else None for text, failure in decoded]


TEXT = "naïve\n\u2028 \U0001f600\nende\n"
LINES = ["naïve", "\u2028 \U0001f600", "ende"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param(TEXT.encode(), None, id="utf-8"),
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), None, id="utf-8 bom"),
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), "UTF8", id="utf-8 bom, named"),
        pytest.param(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), None, id="utf-16-le bom"),
        pytest.param(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), None, id="utf-16-be bom"),
        pytest.param(codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "utf-32", id="utf-32"),
        pytest.param(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16", id="utf-16"),
        pytest.param(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16-le", id="bom, named"),
        pytest.param(TEXT.encode("utf-16-be"), "utf-16-be", id="utf-16-be without bom"),
        pytest.param(TEXT.encode("gb18030"), "gb18030", id="gb18030"),
        pytest.param(TEXT.encode("utf-7"), "utf-7", id="utf-7"),
    ],
)
def test_encodings(data: bytes, encoding: str | None, size: int) -> None:
    assert texts_of(data, encoding, size) == LINES


@pytest.mark.parametrize(
    ("data", "encoding", "texts"),
    [
        pytest.param(b"caf\xe9\n", "latin-1", ["café"], id="latin-1"),
        pytest.param(b'\x1b$B$"\x1b(B\n', "iso2022_jp", ["あ"], id="stateful"),
        pytest.param(b"\xc1\x25\xc2\x25", "cp037", ["A", "B"], id="ebcdic"),
        pytest.param(b"", None, [], id="empty"),
        pytest.param(codecs.BOM_UTF8, None, [], id="bom only"),
        pytest.param(b"\xff\xfe", None, [], id="utf-16 bom only"),
        pytest.param(b"\xef\xbb", None, [None], id="half a bom"),
        pytest.param("a\n\ufeffb\n".encode(), None, ["a", "\ufeffb"], id="bom inside is text"),
    ],
)
def test_texts(data: bytes, encoding: str | None, texts: list[str | None]) -> None:
    assert texts_of(data, encoding) == texts


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param(b"a\nb\xff\nc\n", None, id="utf-8"),
        pytest.param(b"a\nb\xed\xa0\x80\nc\n", None, id="utf-8 surrogate"),
        pytest.param(b"a\nb\x81\nc\n", "cp1252", id="cp1252"),
        pytest.param(b"a\nb\x81\nc\n", "shift_jis", id="lead byte before lf"),
        pytest.param("a\nb\ud800\nc\n".encode("utf-16-le", "surrogatepass"), "utf-16-le", id="le"),
        pytest.param("a\nb\udc0a\nc\n".encode("utf-16-be", "surrogatepass"), "utf-16-be", id="be"),
        pytest.param("a\nb\ud800\nc\n".encode("utf-32-le", "surrogatepass"), "utf-32-le", id="32"),
    ],
)
def test_an_invalid_unit_fails_its_record_only(data: bytes, encoding: str | None, size: int) -> None:
    assert texts_of(data, encoding, size) == ["a", None, "c"]


def test_a_decoder_that_gives_up_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^an input is not valid iso2022_jp: "):
        texts_of(b"a\nb\x1b$\nc\nlast line\n", "iso2022_jp")


def test_half_a_unit_at_the_end_fails_the_last_record() -> None:
    assert texts_of("a\nb".encode("utf-16-le")[:-1], "utf-16-le") == ["a", None]


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        pytest.param(b"ab\xff.", "ab\ufffd.", "not valid UTF-8 at byte 2 (0xff)", id="utf-8"),
        pytest.param(
            "aß\udcff".encode("utf-8", "surrogatepass"),
            "aß\ufffd\ufffd\ufffd",
            "not valid in the encoding of the input after 2 characters",
            id="transcoded",
        ),
    ],
)
def test_decode_says_where(data: bytes, text: str, message: str) -> None:
    assert decode(data) == (text, Failure("invalid_encoding", message))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["utf-16", "utf-32", "gb18030"]))
def test_any_text_survives_transcoding(text: str, encoding: str) -> None:
    utf8 = b"".join(iter_utf8(iter([text.encode(encoding)]), encoding))
    assert utf8.decode() == text.removeprefix("\ufeff")


@pytest.mark.parametrize("name", ["utf-99", "rot13", "hex", "", "a\0b"])
def test_unknown_encoding(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_encoding(name)
    assert refused.value.message == f"unknown encoding {name!r}"


@pytest.mark.parametrize("name", ["utf-8", "UTF-16", "latin1", "cp1252", "gb18030", "utf_32_be"])
def test_known_encoding(name: str) -> None:
    check_encoding(name)
