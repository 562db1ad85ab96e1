"""Compressed streams: recognised by content when read, chosen by suffix when written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import PurePath
from typing import IO, Protocol

from lmcli.errors import DataError
from lmcli.records.sniff import sniff

PIECE = 1 << 16
"""At most so many bytes are decompressed at a time: a bomb costs time, not memory."""


def decompress(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The stream, decompressed if it begins as one of `CODECS` does; what is there comes at once.

    Damage raises DataError, after everything before it has been handed out.
    """
    codec, chunks = sniff(chunks, _SIGNATURES)
    yield from chunks if codec is None else _iter_members(chunks, codec, name)


def is_compressed(content: bytes) -> bool:
    """Whether bytes begin as one of `CODECS` does."""
    return any(content.startswith(signature) for signature in _SIGNATURES)


def codec_of(path: str) -> Codec | None:
    """The codec a file's suffix asks for."""
    return CODECS.get(PurePath(path).suffix.lower())


def plain_name(path: str) -> PurePath:
    """The path without the suffix of a codec: `reviews.csv` for `reviews.csv.gz`."""
    return PurePath(path).with_suffix("") if codec_of(path) else PurePath(path)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A compressed format: how it begins, how to read a member of it and how to write one."""

    name: str
    signatures: tuple[bytes, ...]
    new_member: Callable[[], Member]
    open_writer: Callable[[IO[bytes]], BufferedIOBase]
    """Closing the writer ends the archive and leaves the stream below open."""


class Member(Protocol):
    """A decompressor of one gzip member, bzip2 or xz stream, or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """The next bytes; none only once all data has been used up."""


def _iter_members(chunks: Iterator[bytes], codec: Codec, name: str) -> Iterator[bytes]:
    # The file objects of the standard library take a damaged second member for trailing junk and
    # drop it without a word, hence this loop over their decompressors.
    member: Member | None = None
    for chunk in chunks:
        while chunk:
            if member is None:
                chunk = chunk.lstrip(b"\0")  # tape and xz padding between members
                if not chunk:
                    break
                member = codec.new_member()
            while piece := _decompress(member, chunk, codec, name):
                yield piece
                chunk = b""
            chunk, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None:
        raise DataError(f"{name}: truncated {codec.name} data")


def _decompress(member: Member, data: bytes, codec: Codec, name: str) -> bytes:
    if member.eof:
        return b""
    try:
        return member.decompress(data, PIECE)
    except Exception as error:  # zlib.error, OSError, LZMAError, ZstdError: no other common base
        raise DataError(f"{name}: damaged {codec.name} data: {error}") from error


class _GzipMember:
    """zlib's decompressor with the interface of the other three."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _new_bzip2() -> Member:
    import bz2

    return bz2.BZ2Decompressor()


def _new_xz() -> Member:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ)


def _new_zstd() -> Member:
    from lmcli.records.zstd import ZstdDecompressor

    return ZstdDecompressor()


def _write_gzip(stream: IO[bytes]) -> BufferedIOBase:
    import gzip

    # No name and no time: equal records make equal files.
    return gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0)


def _write_bzip2(stream: IO[bytes]) -> BufferedIOBase:
    import bz2

    return bz2.BZ2File(stream, "wb")


def _write_xz(stream: IO[bytes]) -> BufferedIOBase:
    import lzma

    return lzma.LZMAFile(stream, "wb")


def _write_zstd(stream: IO[bytes]) -> BufferedIOBase:
    from lmcli.records.zstd import CompressionParameter, ZstdFile

    return ZstdFile(stream, "wb", options={CompressionParameter.checksum_flag: 1})


# "BZh" alone begins many a text; the number after it is the start of a block or the end of them.
_BZIP2 = [b"BZh%d" % level + block for level in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")]
# A zstd file may begin with a skippable frame, as those of pzstd do.
_ZSTD = [b"\x28\xb5\x2f\xfd", *(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))]

CODECS = {
    ".gz": Codec(name="gzip", signatures=(b"\x1f\x8b\x08",), new_member=_GzipMember, open_writer=_write_gzip),
    ".bz2": Codec(name="bzip2", signatures=tuple(_BZIP2), new_member=_new_bzip2, open_writer=_write_bzip2),
    ".xz": Codec(name="xz", signatures=(b"\xfd7zXZ\0",), new_member=_new_xz, open_writer=_write_xz),
    ".zst": Codec(name="zstd", signatures=tuple(_ZSTD), new_member=_new_zstd, open_writer=_write_zstd),
}
_SIGNATURES = {signature: codec for codec in CODECS.values() for signature in codec.signatures}
