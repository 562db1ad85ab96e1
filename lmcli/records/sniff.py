"""`sniff`: tell what a stream is by how it begins, without reading more of it than that takes."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TypeVar

T = TypeVar("T")


def sniff(chunks: Iterator[bytes], signatures: Mapping[bytes, T]) -> tuple[T | None, Iterator[bytes]]:
    """What the longest signature the stream begins with stands for, and the whole stream again.

    A slow producer is not held up: reading ends as soon as no (longer) signature is possible.
    """
    head = b""
    while any(len(head) < len(known) and known.startswith(head) for known in signatures):
        chunk = next(chunks, b"")
        if not chunk:
            break
        head += chunk
    found = max((known for known in signatures if head.startswith(known)), key=len, default=None)
    return (
        None if found is None else signatures[found],
        chain([head] if head else [], chunks),
    )
