"""Any encoding in, UTF-8 out; and from the UTF-8 of one record to its text.

`iter_utf8` transcodes a stream, `decode` reads one record. An invalid unit spoils only its record:
where the stream is transcoded the unit becomes a mark that is itself not valid UTF-8.
"""

import codecs
from collections.abc import Iterator
from itertools import chain

from lmcli.errors import DataError, UsageError
from lmcli.records.record import Failure
from lmcli.records.sniff import sniff

BOMS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins as UTF-16's does: the longest mark counts
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = "\udcff"
_MARK_BYTES = _MARK.encode("utf-8", "surrogatepass")


def check_encoding(encoding: str) -> None:
    """Raise UsageError for a name Python knows no text encoding by."""
    try:
        b"0".decode(encoding)
    except UnicodeError:
        return  # known; one byte is too short for it
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"unknown encoding {encoding!r}", hint="for instance utf-8, latin-1, cp1252, utf-16"
        ) from error


def iter_utf8(chunks: Iterator[bytes], encoding: str | None = None) -> Iterator[bytes]:
    """The stream as UTF-8 without a byte order mark. No `encoding`: UTF-8, or what the mark says."""
    if encoding is None:
        encoding, chunks = sniff(chunks, BOMS)
    if encoding is not None and codecs.lookup(encoding).name != "utf-8":
        chunks = _transcode(chunks, encoding)
    has_bom, chunks = sniff(chunks, {codecs.BOM_UTF8: True})
    if has_bom:
        yield next(chunks).removeprefix(codecs.BOM_UTF8)
    yield from chunks


def decode(data: bytes) -> tuple[str, Failure | None]:
    """The text, with U+FFFD for what is not valid, and the failure that makes of the record."""
    try:
        return data.decode(), None
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        return text, Failure("invalid_encoding", _invalid(data, error.start))


def _invalid(data: bytes, start: int) -> str:
    if data.startswith(_MARK_BYTES, start):
        characters = len(data[:start].decode())
        return f"not valid in the encoding of the input after {characters} characters"
    return f"not valid UTF-8 at byte {start} (0x{data[start]:02x})"


def _transcode(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    codecs.register_error("lmcli-mark", _mark)
    decoder = codecs.getincrementaldecoder(encoding)("lmcli-mark")
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:  # some stateful decoders give up on bad escape sequences
            raise DataError(f"an input is not valid {encoding}: {error}") from error
        if text:
            yield text.encode("utf-8", "surrogatepass")


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _MARK, error.end
