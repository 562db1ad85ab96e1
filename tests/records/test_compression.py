import bz2
import gzip
import lzma
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import DataError
from lmcli.records.compression import codec_of, decompress, plain_name

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compress = Callable[[bytes], bytes]


def compress_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


FORMATS = pytest.mark.parametrize(
    ("name", "compress"),
    [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress), ("zstd", compress_zstd)],
    ids=["gz", "bz2", "xz", "zst"],
)

COMPRESS = pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, compress_zstd],
    ids=["gz", "bz2", "xz", "zst"],
)


def cut(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, size: int = 1000) -> bytes:
    return b"".join(decompress(cut(data, size), "file"))


@COMPRESS
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_all_members_are_read(compress: Compress, size: int) -> None:
    members = [b"one\n" * 10, b"", b"two\n", b"three"]
    assert read(b"".join(map(compress, members)), size) == b"".join(members)


@COMPRESS
def test_padding_between_members_is_skipped(compress: Compress) -> None:
    assert read(compress(b"a") + bytes(8) + compress(b"b") + bytes(4)) == b"ab"


@COMPRESS
def test_output_is_cut_into_pieces(compress: Compress) -> None:
    sizes = [len(piece) for piece in decompress(cut(compress(bytes(10_000_000))), "file")]
    assert sum(sizes) == 10_000_000
    assert max(sizes) <= 1 << 16


@FORMATS
@pytest.mark.parametrize("dropped", [1, 8])
def test_truncated_data_is_an_error(name: str, compress: Compress, dropped: int) -> None:
    with pytest.raises(DataError) as refused:
        read(compress(b"one\n" * 100)[:-dropped])
    assert refused.value.message == f"file: truncated {name} data"


@COMPRESS
def test_truncated_second_member_comes_after_the_first(compress: Compress) -> None:
    pieces = decompress(cut(compress(b"one\n") + compress(b"two\n")[:-4]), "file")
    assert next(pieces) == b"one\n"
    with pytest.raises(DataError):
        list(pieces)


@FORMATS
@pytest.mark.parametrize("junk", [b"junk", b"\x01"], ids=["text", "byte"])
def test_junk_after_the_end_is_an_error(name: str, compress: Compress, junk: bytes) -> None:
    pieces = decompress(cut(compress(b"one\n") + junk), "file")
    assert next(pieces) == b"one\n"
    with pytest.raises(DataError, match=f"^file: (damaged|truncated) {name} data"):
        list(pieces)


@FORMATS
def test_damage_inside_is_an_error(name: str, compress: Compress) -> None:
    data = bytearray(compress(bytes(range(256)) * 100))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError, match=f"^file: (damaged|truncated) {name} data"):
        read(bytes(data))


def test_zstd_may_begin_with_a_skippable_frame() -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert read(skippable + zstd.compress(b"one")) == b"one"


@given(st.binary(), st.integers(1, 5))
def test_other_data_passes_unchanged(data: bytes, size: int) -> None:
    assert b"".join(decompress(cut(b"_" + data, size), "file")) == b"_" + data


@pytest.mark.parametrize("text", [b"", b"B", b"BZh", b"BZh1 is no archive", b"\x1f\x8b", b"(\xb5"])
def test_text_like_a_signature_passes_unchanged(text: bytes) -> None:
    assert read(text, 1) == text


def test_nothing_is_read_ahead() -> None:
    def slow() -> Iterator[bytes]:
        yield b"hi\n"
        raise AssertionError("asked too early")

    assert next(decompress(slow(), "file")) == b"hi\n"


@pytest.mark.parametrize(
    ("path", "codec", "plain"),
    [
        ("a/b.csv.gz", "gzip", "a/b.csv"),
        ("b.BZ2", "bzip2", "b"),
        ("b.txt.xz", "xz", "b.txt"),
        ("b.jsonl.zst", "zstd", "b.jsonl"),
        ("b.csv", None, "b.csv"),
        ("gz", None, "gz"),
        (".gz", None, ".gz"),
        ("-", None, "-"),
    ],
)
def test_suffixes(path: str, codec: str | None, plain: str) -> None:
    found = codec_of(path)
    assert (found and found.name, str(plain_name(path))) == (codec, plain)
