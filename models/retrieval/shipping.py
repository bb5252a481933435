"""How a structure and the weights that go with it reach the replicas: as named payloads of one version.

STRUCTURE    a snapshot of the structure, made anew whenever the changes since amount to half of it
RETRIEVAL    the dense weights, and the chain of deltas from that snapshot to now

A replica at any version of the chain goes on from there; any other takes the snapshot first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from models.retrieval.delta import Digest, StructureError, decode_delta
from models.retrieval.structure import PathStructure

_log = logging.getLogger(__name__)

RETRIEVAL: Final = "retrieval"
"""The name under which weights and deltas are published."""
STRUCTURE: Final = "structure"
"""The name under which snapshots are published."""

_LEAST: Final = 4096
"""Chains of fewer bytes are not worth a snapshot."""


class Shipment(msgspec.Struct, frozen=True, array_like=True):
    """The payload RETRIEVAL: `weights` as `models.dense` writes them, and deltas, each after the one before.

    `epoch` and `version` are where the chain ends, `digest` is the structure's there.
    """

    weights: bytes
    epoch: int
    version: int
    digest: Digest
    chain: tuple[bytes, ...]


class Shipper:
    """Makes the payloads of `structure`, one version after the other."""

    def __init__(self, structure: PathStructure) -> None:
        self._structure = structure
        self._chain: list[bytes] = []
        self._at: tuple[int, int] | None = None
        self._snapshot_bytes = 0

    def forget(self) -> None:
        """Begin with a snapshot again: the one that was published may be lost."""
        self._at = None

    def payloads(self, weights: bytes) -> list[tuple[str, bytes]]:
        """What to publish now, by name and in that order, with `weights`."""
        here, made = (self._structure.epoch, self._structure.version), []
        grown = sum(map(len, self._chain)) > max(self._snapshot_bytes // 2, _LEAST)
        if self._at is None or self._at[0] != here[0] or grown:
            snapshot = self._structure.changes_since(0, here[0]).encode()
            # who is where the last shipment led needs no snapshot
            self._chain, self._snapshot_bytes = self._step(here) if grown else [], len(snapshot)
            made.append((STRUCTURE, snapshot))
        else:
            self._chain += self._step(here)
        self._at = here
        shipment = Shipment(weights, *here, self._structure.digest(), tuple(self._chain))
        return [*made, (RETRIEVAL, msgspec.msgpack.encode(shipment))]

    def _step(self, here: tuple[int, int]) -> list[bytes]:
        """The changes since the last shipment, if there are any, up to `here`."""
        if self._at is None or self._at == here or self._at[0] != here[0]:
            return []
        return [self._structure.changes_since(self._at[1], here[0]).encode()]


def decode_shipment(data: bytes) -> Shipment:
    """The shipment in `data`.

    Raises:
        StructureError: it is damaged.
    """
    try:
        return msgspec.msgpack.decode(data, type=Shipment)
    except msgspec.DecodeError as error:
        raise StructureError(f"shipment: {error}") from error


class Follower:
    """A copy of the structure of K^D = `total_paths` paths, `slots` an item, kept up by shipments."""

    def __init__(self, total_paths: int, slots: int) -> None:
        self.structure = PathStructure(total_paths, slots)
        self._known = False
        self.snapshots = 0
        """How often everything had to be fetched."""

    def forget(self) -> None:
        """Take the snapshot the next time: who publishes may have gone back."""
        self._known = False

    def follow(self, shipment: Shipment, snapshot: Callable[[], bytes]) -> None:
        """Be where `shipment` ends; `snapshot` fetches the newest one where it is needed.

        Raises:
            StructureError: what was sent is damaged or does not lead there. The copy is then of no use, and
                begins with a snapshot the next time.
        """
        known, self._known = self._known, False
        if known:
            try:
                self._walk(shipment)
            except StructureError as error:
                _log.warning("the structure's changes do not follow, so it is fetched anew: %s", error)
            else:
                self._known = True
                return
        self.snapshots += 1
        self.structure.apply(decode_delta(snapshot()))
        self._walk(shipment)
        self._known = True

    def _walk(self, shipment: Shipment) -> None:
        """Apply what of the chain is ahead.

        Raises:
            StructureError: see `follow`.
        """
        structure = self.structure
        for data in shipment.chain:
            delta = decode_delta(data)
            if (delta.epoch, delta.since) == (structure.epoch, structure.version):
                structure.apply(delta)
        if (structure.epoch, structure.version) != (shipment.epoch, shipment.version):
            raise StructureError(
                f"shipment: leads to version {shipment.version} of epoch {shipment.epoch}; "
                f"the copy is at {structure.version} of {structure.epoch}"
            )
        if structure.digest() != shipment.digest:
            # two lives of the publisher may have given one number to two versions
            raise StructureError(
                f"shipment: has digest {shipment.digest}; the copy's is {structure.digest()}"
            )
