"""A part of a checkpoint as bytes: a header that names table, columns, dtypes and shapes, and their memory.

Knows no files. Columns are whatever a table has; a checksum covers all of it.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from parameter_server.errors import CheckpointError
from parameter_server.sweep import Part

_LENGTH: Final = 4
_REMOVED: Final = "removed"


class _Column(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Header(msgspec.Struct, frozen=True, array_like=True):
    table: str
    columns: list[_Column]
    crc32: int


def encode_part(part: Part) -> bytes:
    """The bytes of `part`, little-endian."""
    columns = {_REMOVED: part.removed, **part.columns}
    arrays = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in columns.values()]
    crc = 0
    for array in arrays:
        crc = zlib.crc32(_bytes(array), crc)
    described = [
        _Column(name, array.dtype.str, array.shape) for name, array in zip(columns, arrays, strict=True)
    ]
    header = msgspec.msgpack.encode(_Header(part.table, described, crc))
    return b"".join([len(header).to_bytes(_LENGTH, "little"), header, *map(_bytes, arrays)])


def _bytes(array: NDArray[Any]) -> Any:
    return array.reshape(-1).view(np.uint8).data


def decode_part(data: bytes, where: str) -> Part:
    """The part in `data`, as views of it.

    Raises:
        CheckpointError: it is cut or damaged; the message begins with `where`.
    """
    try:
        end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        header = msgspec.msgpack.decode(memoryview(data)[_LENGTH:end], type=_Header)
        columns = {}
        start = end
        for column in header.columns:
            dtype = np.dtype(column.dtype)
            count = int(np.prod(column.shape))
            columns[column.name] = np.frombuffer(data, dtype, count, start).reshape(column.shape)
            start += count * dtype.itemsize
        removed = columns.pop(_REMOVED)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    if start != len(data) or zlib.crc32(memoryview(data)[end:]) != header.crc32:
        raise CheckpointError(f"{where}: does not match its checksum")
    return Part(header.table, removed, columns)
