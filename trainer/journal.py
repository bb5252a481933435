"""The journal: one checksummed record a step, written before the step is pushed.

    4 bytes length, 4 bytes CRC-32, both little-endian, then MessagePack

A record reaches the operating system before its step leaves, so a process that dies finds there every step
whose gradients anyone may have had. Knows nothing of what training does with them.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from schema.records import F32
from trainer.arrivals import Arrived
from trainer.entries import Run
from trainer.errors import RecoveryError

_HEAD: Final = struct.Struct("<II")


class StepRecord(msgspec.Struct, frozen=True, array_like=True):
    """One step: what it read, in order, and its predictions <f4 (rows, T), in the order of the rows.

    `settled`: its vectors were pulled when all pushes before it had been applied, not all but the last.
    `step` is that of the last push where the step had no rows, and so no push. `refused`: its gradients
    were not finite and nothing learned from it. `arrived`: the items that it took from the catalogue.
    """

    step: int
    runs: tuple[Run, ...]
    rows: int
    predictions: bytes
    refused: bool = False
    settled: bool = True
    arrived: Arrived = Arrived()

    def prediction_matrix(self) -> F32:
        """Shape (rows, T)."""
        return np.frombuffer(self.predictions, "<f4").reshape(self.rows, -1)


class JournalWriter:
    """Appends records to the file `path`, which it makes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._encoder = msgspec.msgpack.Encoder()

    def append(self, record: StepRecord) -> None:
        """Write `record`; on return a killed process does not lose it."""
        body = self._encoder.encode(record)
        data = _HEAD.pack(len(body), zlib.crc32(body)) + body
        written = self._file.write(data)
        if written != len(data):
            raise OSError(f"journal {self._file.name}: {written} of {len(data)} bytes were written")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> list[StepRecord]:
    """The records in `path`, without a last one that is torn: its step was never pushed.

    Raises:
        RecoveryError: a record before the last is damaged.
    """
    data = memoryview(path.read_bytes())
    decoder = msgspec.msgpack.Decoder(StepRecord)
    records, at = [], 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        end = at + _HEAD.size + length
        if zlib.crc32(body) != checksum or len(body) != length:
            if end >= len(data):
                break
            raise RecoveryError(
                f"{path}: the record at byte {at} is damaged; legal is to restore the file, or to remove "
                f"{path.parent} and train from the earliest sample"
            )
        records.append(decoder.decode(body))
        at = end
    return records
