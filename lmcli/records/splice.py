"""`write_final`: an output with slots replaced, compressed; always the same bytes for the same content."""

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lmcli.records.compression import Codec
from lmcli.records.durable import PIECE, Sink, open_file
from lmcli.records.recovery import Content


class Spliced(NamedTuple):
    """Bytes that take the place of others."""

    start: int
    end: int
    data: bytes


def write_final(
    path: Path, content: Content, slots: Iterable[Spliced], codec: Codec | None, *, like: Path
) -> tuple[int, int]:
    """Write the content with `slots` spliced in, durably; its size and checksum before compression."""
    size = crc = 0
    descriptor = open_file(path, like=like)
    sink = Sink(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        archive = codec.open_writer(sink.as_file()) if codec else None
        for block in _in_blocks(_splice(content, slots)):
            (archive or sink).write(block)
            size, crc = size + len(block), zlib.crc32(block, crc)
        if archive:
            archive.close()
        os.fsync(descriptor)
    finally:
        sink.close()
    return size, crc


def move(
    failed: Mapping[int, tuple[int, int]], retried: Mapping[int, bytes]
) -> tuple[list[Spliced], dict[int, tuple[int, int]]]:
    """What to splice in for the retried slots, and where the others are then."""
    slots, left, shift = [], {}, 0
    for index, (start, end) in sorted(failed.items()):
        if index in retried:
            slots.append(Spliced(start, end, retried[index]))
            shift += len(retried[index]) - (end - start)
        else:
            left[index] = (start + shift, end + shift)
    return slots, left


def _splice(content: Content, slots: Iterable[Spliced]) -> Iterator[bytes | memoryview]:
    for start, end, data in slots:
        yield from content.take(start - content.size)
        for _ in content.take(end - start):
            pass
        yield data
    while True:
        pieces = list(content.take(PIECE))
        if not pieces:
            return
        yield from pieces


def _in_blocks(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Blocks of one size: what a compressor makes of bytes may depend on how they come."""
    block = bytearray()
    for piece in pieces:
        block += piece
        while len(block) >= PIECE:
            yield bytes(block[:PIECE])
            del block[:PIECE]
    if block:
        yield bytes(block)
