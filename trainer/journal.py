"""Files of checksummed records: the journal of steps, and the pushes that belong to a recovery point.

    4 bytes length, 4 bytes CRC-32, both little-endian, then MessagePack

A record reaches the operating system at once, so that a process that dies loses none; a last one that is torn
counts for nothing. Knows nothing of what training does with them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np

from schema.records import F32, U64
from trainer.arrivals import Arrived
from trainer.entries import Run

_HEAD: Final = struct.Struct("<II")

R = TypeVar("R", bound=msgspec.Struct)


class StepRecord(msgspec.Struct, frozen=True, array_like=True):
    """How one step's batch was cut: what it read, in order, and how many rows were left to train.

    `settled`: its vectors were pulled when all pushes before it had been applied, not all but the last.
    `step` is that of the last push where the step had no rows, and so no push. `arrived`: the items that it
    took from the catalogue.
    """

    step: int
    runs: tuple[Run, ...]
    rows: int
    settled: bool = True
    arrived: Arrived = Arrived()


class PushedRows(msgspec.Struct, frozen=True, array_like=True):
    """The gradients <f4 (n, dim) of ids <u8 (n,) of one table."""

    table: str
    ids: bytes
    gradients: bytes


class PushRecord(msgspec.Struct, frozen=True, array_like=True):
    """One push, as it went to the shards."""

    step: int
    event_time: int
    rows: tuple[PushedRows, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """The gradients of one step: ids (n,) and gradients (n, dim) by table; the newest event time in it."""

    step: int
    event_time: int
    gradients: Mapping[str, tuple[U64, F32]]

    def record(self) -> PushRecord:
        """What a file keeps of it."""
        rows = (
            PushedRows(name, ids.astype("<u8").tobytes(), gradients.astype("<f4").tobytes())
            for name, (ids, gradients) in self.gradients.items()
        )
        return PushRecord(self.step, self.event_time, tuple(rows))

    @classmethod
    def of(cls, record: PushRecord) -> Push:
        """The push that `record` was made of."""
        return cls(record.step, record.event_time, {rows.table: _columns(rows) for rows in record.rows})


def _columns(rows: PushedRows) -> tuple[U64, F32]:
    ids = np.frombuffer(rows.ids, "<u8")
    gradients = np.frombuffer(rows.gradients, "<f4")
    return ids, gradients.reshape(len(ids), len(gradients) // max(1, len(ids)))


class RecordWriter(Generic[R]):
    """Appends records to the new file `path`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._encoder = msgspec.msgpack.Encoder()
        self.count = 0

    def append(self, record: R) -> None:
        """Write `record`; on return a killed process does not lose it."""
        body = self._encoder.encode(record)
        data = _HEAD.pack(len(body), zlib.crc32(body)) + body
        written = self._file.write(data)
        if written != len(data):
            raise OSError(f"{self._file.name}: {written} of {len(data)} bytes were written")
        self.count += 1

    def close(self, *, sync: bool = False) -> None:
        """Close the file; with `sync`, once it is on the disk."""
        if sync:
            os.fsync(self._file.fileno())
        self._file.close()


def read_records(path: Path, kind: type[R]) -> list[R]:
    """The records in `path`, up to but without the first that is torn or damaged."""
    data = memoryview(path.read_bytes())
    decoder = msgspec.msgpack.Decoder(kind)
    records, at = [], 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            break
        records.append(decoder.decode(body))
        at += _HEAD.size + length
    return records
