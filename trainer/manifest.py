"""What a recovery point says of itself: its manifest, which is written last. Knows no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from trainer.checkpoint import Image
from trainer.entries import Position
from trainer.errors import RecoveryError
from trainer.retrieval import Mark

FORMAT: Final = 1


class ShardPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a shard stood at its checkpoint of a point."""

    epoch: int
    clock: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recovery point, as of `step`. `made_at` is in milliseconds since 1970.

    `checkpoint` is the name of every shard's checkpoint, `pushes` the file of `pushed` pushes that may come
    after them, `journal` the first of the journals. Unless `settled`, the push of `step` follows only once
    the next batch's vectors have been pulled. `returned_to` is the number of the point that a rollback chose.
    Where `state` has only what changed of single items, `before` are the states that it follows, in order.
    """

    format: int
    number: int
    made_at: int
    step: int
    rows: int
    settled: bool
    offsets: dict[int, Position]
    state: str
    pushes: str
    pushed: int
    journal: int
    checkpoint: str
    shards: tuple[ShardPlace, ...]
    returned_to: int | None = None
    before: tuple[str, ...] = ()


class Cut(NamedTuple):
    """The trainer between two steps: its state, and what the manifest says of it.

    `state` is whole, or, where it `follows`, has of single items only what changed since the newest point.
    What changes after it has changed since `mark`.
    """

    state: Image
    follows: bool
    mark: Mark | None
    made_at: int
    step: int
    rows: int
    settled: bool
    positions: dict[int, Position]


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`.

    Raises:
        RecoveryError: it cannot be read, or is of another version.
    """
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise RecoveryError(f"{path}: {error}") from error
    if manifest.format != FORMAT:
        raise RecoveryError(f"{path}: format {manifest.format}; legal is {FORMAT}")
    return manifest
