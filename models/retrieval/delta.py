"""What of a structure changed since a version, as a value and as bytes.

A delta's bytes are a CRC-32, little-endian, and MessagePack of raw little-endian arrays: safe to read from
anyone.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schema.errors import HeadwaterError

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

_CHECKSUM: Final = 4
_FORMAT: Final = 1


class StructureError(HeadwaterError):
    """A delta is damaged, or does not continue the structure that it is applied to."""


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """What a structure holds, whatever the order of its rows: equal contents have equal digests.

    `items` is their number, `sum` the sum modulo 2^64 of a 64-bit hash of each item with its paths.
    """

    items: int
    sum: int


class StructureDelta(msgspec.Struct, frozen=True, array_like=True):
    """Changes from version `since` to `version` of one `epoch` of a structure; `since` 0: all there is.

    `ids` <i8 (n,) with their `paths` <i4 (n, J) are the items placed or moved; `removed` <i8 (k,) are gone.
    `digest` is that of the whole structure at `version`.
    """

    epoch: int
    since: int
    version: int
    slots: int
    total_paths: int
    ids: bytes
    paths: bytes
    removed: bytes
    digest: Digest
    format: int = _FORMAT

    def item_ids(self) -> I64:
        """Items that were placed or moved, (n,)."""
        return np.frombuffer(self.ids, "<i8")

    def path_codes(self) -> I32:
        """Their paths, (n, J)."""
        return np.frombuffer(self.paths, "<i4").reshape(-1, self.slots)

    def removed_ids(self) -> I64:
        """Items that are gone, (k,)."""
        return np.frombuffer(self.removed, "<i8")

    def encode(self) -> bytes:
        """As bytes."""
        body = msgspec.msgpack.encode(self)
        return zlib.crc32(body).to_bytes(_CHECKSUM, "little") + body


def decode_delta(data: bytes) -> StructureDelta:
    """The delta in `data`.

    Raises:
        StructureError: the bytes are damaged, or of another format.
    """
    body = memoryview(data)[_CHECKSUM:]
    if zlib.crc32(body) != int.from_bytes(data[:_CHECKSUM], "little"):
        raise StructureError(f"delta: its {len(body)} bytes do not match their checksum")
    try:
        delta = msgspec.msgpack.decode(body, type=StructureDelta)
        shapes_fit = len(delta.item_ids()) == len(delta.path_codes())
    except (msgspec.DecodeError, ValueError) as error:
        raise StructureError(f"delta: {error}") from error
    if delta.format != _FORMAT or not shapes_fit:
        raise StructureError(
            f"delta: format {delta.format} with {len(delta.ids)} bytes of ids and "
            f"{len(delta.paths)} of paths; legal is format {_FORMAT} with {delta.slots} paths an id"
        )
    return delta


def digest_of(ids: I64, paths: I32) -> Digest:
    """The digest of items `ids` (n,) on `paths` (n, J); the order of an item's paths counts."""
    hashed = mix64(ids.astype(np.uint64))
    for j in range(paths.shape[1]):
        hashed = mix64(hashed ^ paths[:, j].astype(np.int64).astype(np.uint64))
    return Digest(len(ids), int(hashed.sum(dtype=np.uint64)))


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 64-bit finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
