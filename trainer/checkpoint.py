"""All that a trainer is as of one step, as bytes, and files that are written whole or not at all.

An image is 4 bytes CRC-32, little-endian, then MessagePack.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from runtime.files import sync_folder, write_through
from trainer.baseline import SavedBaseline
from trainer.by_user import SavedByUser
from trainer.dedup import PartitionSeen
from trainer.entries import Position
from trainer.errors import RecoveryError
from trainer.evaluation import SavedEvaluation
from trainer.guard import SavedGuard
from trainer.retrieval import SavedRetrieval, whole_retrieval

_CHECKSUM: Final = 4


class Counters(msgspec.Struct, array_like=True):
    """What a trainer has done since its first sample. `step` is the last that was pushed or refused."""

    step: int = 0
    rows: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    refused_rows: int = 0
    replayed_steps: int = 0
    late_rows: int = 0


class Image(msgspec.Struct, frozen=True, array_like=True):
    """A trainer as of one step. `positions`: what has been read of each partition of `topic`.

    `torch` holds the model, its optimizer and the random state, as torch writes them. `history`: the
    positions are in a history that was never in the topic.
    """

    topic: str
    tasks: tuple[str, ...]
    counters: Counters
    positions: dict[int, Position]
    duplicates: tuple[PartitionSeen, ...]
    torch: bytes
    evaluation: SavedEvaluation
    baseline: tuple[SavedBaseline, SavedEvaluation] | None
    guard: SavedGuard | None = None
    history: bool = False
    retrieval: SavedRetrieval | None = None
    by_user: SavedByUser | None = None


def whole_image(images: Sequence[Image]) -> Image:
    """The last of `images`, with all items: the first has them, each later one those that changed since.

    Raises:
        RecoveryError: they do not go together.
    """
    saved = [image.retrieval for image in images if image.retrieval is not None]
    if len(saved) < len(images):
        return images[-1]
    try:
        return msgspec.structs.replace(images[-1], retrieval=whole_retrieval(saved))
    except ValueError as error:
        raise RecoveryError(f"the states of a recovery point do not go together: {error}") from error


def encode_image(image: Image) -> bytes:
    """The bytes of `image`."""
    body = msgspec.msgpack.encode(image)
    return zlib.crc32(body).to_bytes(_CHECKSUM, "little") + body


def read_image(path: Path) -> Image:
    """The image in `path`.

    Raises:
        RecoveryError: the file cannot be read, is damaged, or is of another version of the trainer.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise RecoveryError(f"{path}: {error}") from error
    body = data[_CHECKSUM:]
    if zlib.crc32(body) != int.from_bytes(data[:_CHECKSUM], "little"):
        raise RecoveryError(f"{path}: the {len(body)} bytes do not match their checksum")
    try:
        return msgspec.msgpack.decode(body, type=Image)
    except msgspec.DecodeError as error:
        raise RecoveryError(f"{path}: not an image of this trainer: {error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`: a crash leaves the whole file there, or none. On return it is on the disk."""
    scratch = path.with_suffix(".tmp")
    write_through(scratch, data)
    scratch.rename(path)
    sync_folder(path.parent)
