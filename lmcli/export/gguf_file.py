"""`open_gguf`: metadata and tensors of a GGUF file as they stand in it, every size checked against the file.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package has a
reader, too, but that believes an array's length and goes on behind the end of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gguf
import numpy as np
import numpy.typing as npt

from lmcli.errors import ExportError, reason

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

GET_AGAIN = "get the file again"
_VERSIONS = (2, 3)
_MAX_AXES = 4
_ALIGNMENT = 32  # where general.alignment says nothing


class RawTensor(NamedTuple):
    """A tensor as the file has it."""

    shape: tuple[int, ...]
    """As numpy writes it: rows first, where GGUF begins with the number of columns."""
    kind: gguf.GGMLQuantizationType
    rows: Bytes
    """(..., bytes of a row), read from the file when they are used."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """What a GGUF file holds."""

    path: Path
    metadata: Mapping[str, Any]
    """Numbers, booleans and strings; arrays of numbers are numpy's, those of strings are lists."""
    tensors: Mapping[str, RawTensor]

    def fact(self, key: str, kind: type[T]) -> T | None:
        """The value of a key, None where there is none. Raises ExportError when it is of another kind."""
        value = self.metadata.get(key)
        if value is None:
            return None
        if type(value) is not kind:
            found, wanted = type(value).__name__, kind.__name__
            raise ExportError(f"{self.path}: {key} is of the type {found}, not {wanted}", hint=GET_AGAIN)
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key. Raises ExportError when there is none, or one of another kind."""
        value = self.fact(key, kind)
        if value is None:
            raise ExportError(f"{self.path} does not say its {key}", hint=GET_AGAIN)
        return value


def open_gguf(path: Path) -> Container:
    """Read the metadata; tensors stay in the file until they are used.

    Raises ExportError for files that are no GGUF, damaged, or of a kind that lmcli does not read.
    """
    try:
        data = (
            np.asarray(np.memmap(path, np.uint8, mode="r")) if path.stat().st_size else np.zeros(0, np.uint8)
        )
        metadata, tensors = _Reader(data).read()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {reason(error)}") from error
    except _InvalidError as error:
        raise ExportError(f"{path}: {error}", hint=error.hint) from error
    return Container(path=path, metadata=metadata, tensors=tensors)


class _InvalidError(Exception):
    def __init__(self, message: str, *, hint: str = GET_AGAIN) -> None:
        super().__init__(message)
        self.hint = hint


_SCALARS: Mapping[int, np.dtype[Any]] = {
    index: np.dtype(kind)
    for index, kind in enumerate(
        ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "", "", "<u8", "<i8", "<f8")
    )
    if kind
}
_BOOL, _STRING, _ARRAY = 7, 8, 9


class _Reader:
    """Reads from front to back."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._place = 0

    def read(self) -> tuple[dict[str, Any], dict[str, RawTensor]]:
        num_tensors, num_facts = self._head()
        metadata = self._unique("key", num_facts, lambda: self._value(self._int("<I")))
        entries = self._unique("tensor", num_tensors, self._entry)
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _InvalidError(f"general.alignment is {alignment!r}, not a power of two")
        start = math.ceil(self._place / alignment) * alignment
        return metadata, {name: self._tensor(name, start, *entry) for name, entry in entries.items()}

    def _head(self) -> tuple[int, int]:
        """The numbers of tensors and of facts."""
        if bytes(self._data[:4]) != b"GGUF":
            raise _InvalidError(
                "not a GGUF file", hint="after a `git clone`, `git lfs pull` brings the weights"
            )
        self._place = 4
        version = self._int("<I")
        if not version & 0xFFFF:
            raise _InvalidError(
                "a GGUF file for big-endian machines", hint="convert the model again, without --bigendian"
            )
        if version not in _VERSIONS:
            raise _InvalidError(
                f"GGUF version {version}, where lmcli reads {_VERSIONS}", hint="convert the model again"
            )
        return self._int("<Q"), self._int("<Q")

    def _unique(self, what: str, count: int, read: Callable[[], T]) -> dict[str, T]:
        """`count` things by their names, which stand before them."""
        found: dict[str, T] = {}
        for _ in range(count):
            name = self._text()
            if name in found:
                raise _InvalidError(f"{what} {name!r} is there twice")
            found[name] = read()
        return found

    def _take(self, size: int) -> Bytes:
        """The next bytes. A damaged length is often larger than any file."""
        if size > len(self._data) - self._place:
            raise _InvalidError("truncated or damaged: it says that it is longer than it is")
        self._place += size
        return self._data[self._place - size : self._place]

    def _int(self, layout: str) -> int:
        value: int = struct.unpack(layout, self._take(struct.calcsize(layout)).tobytes())[0]
        return value

    def _text(self) -> str:
        try:
            return self._take(self._int("<Q")).tobytes().decode()
        except UnicodeDecodeError as error:
            raise _InvalidError(f"a string is not UTF-8: {error.reason}") from error

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(self._int("<I"), self._int("<Q"))
        return self._numbers(kind, 1)[0].item()

    def _array(self, kind: int, count: int) -> list[str] | npt.NDArray[Any]:
        if kind == _STRING:
            return [self._text() for _ in range(count)]
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> npt.NDArray[Any]:
        if kind not in _SCALARS:
            raise _InvalidError(f"a value is of the unknown type {kind}")
        dtype = _SCALARS[kind]
        content = self._take(count * dtype.itemsize)
        return content.astype(np.bool_) if kind == _BOOL else np.frombuffer(content.tobytes(), dtype)

    def _entry(self) -> tuple[tuple[int, ...], int, int]:
        """What is told of a tensor: shape, type, and place in the data."""
        num_axes = self._int("<I")
        if num_axes > _MAX_AXES:
            raise _InvalidError(f"a tensor has {num_axes} axes")
        shape = tuple(self._int("<Q") for _ in range(num_axes))[::-1]
        return shape, self._int("<I"), self._int("<Q")

    def _tensor(self, name: str, start: int, shape: tuple[int, ...], number: int, offset: int) -> RawTensor:
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError as error:
            raise _InvalidError(
                f"tensor {name!r} is of the unknown type {number}", hint=UNKNOWN_TYPE
            ) from error
        block, size = gguf.GGML_QUANT_SIZES[kind]
        columns = shape[-1] if shape else 1
        if columns % block:
            raise _InvalidError(f"tensor {name!r} has rows of {columns} values, in blocks of {block}")
        row = columns // block * size
        self._place = start + offset
        content = self._take(math.prod(shape[:-1]) * row)
        return RawTensor(shape, kind, content.reshape(*shape[:-1], row))


UNKNOWN_TYPE = "take a file of another quantization, or a newer `gguf` package"
