"""Checkpoints of a shard on disk: a folder of raw columns and a manifest that is written last.

Knows no clock and no network. A checkpoint appears by one rename once all of it is on the disk, so it is
there wholly or not at all; every file's size and checksum is in the manifest.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError
from parameter_server.shard import ShardImage

_log = logging.getLogger(__name__)

KEPT: Final = 2
_PREFIX: Final = "checkpoint-"
_UNFINISHED: Final = "unfinished-"
_MANIFEST: Final = "MANIFEST.json"
_FORMAT: Final = 1
_DTYPES: Final = {
    "ids": "<u8",
    "vectors": "<f4",
    "versions": "<u8",
    "state": "<f4",
    "last_use": "<i8",
    "uses": "<u4",
    "widths": "<u2",
}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    crc32: int


class _Dense(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    version: int
    step: int


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    clock: int
    steps: dict[str, int]
    dims: dict[str, int]
    dense: dict[str, _Dense]
    files: dict[str, _File]


def save(image: ShardImage, folder: Path) -> Path:
    """Write `image` as the newest checkpoint in `folder` and drop all but the newest two.

    Raises:
        OSError: the disk refused; the earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(_UNFINISHED + "*"):
        shutil.rmtree(leftover)
    number = max((_number(path) for path in found(folder)), default=0) + 1
    unfinished = folder / f"{_UNFINISHED}{number:012d}"
    unfinished.mkdir()
    dense = {
        name: _Dense(f"dense-{place}", value.version, value.step)
        for place, (name, value) in enumerate(image.dense.items())
    }
    files = {name: _write(unfinished / name, data) for name, data in _contents(image, dense)}
    dims = {name: table.vectors.shape[1] for name, table in image.tables.items()}
    manifest = _Manifest(_FORMAT, image.clock, dict(image.steps), dims, dense, files)
    _write(unfinished / _MANIFEST, msgspec.json.encode(manifest))
    _sync(unfinished)
    finished = folder / f"{_PREFIX}{number:012d}"
    unfinished.rename(finished)
    _sync(folder)
    for old in found(folder)[KEPT:]:
        shutil.rmtree(old)
    return finished


def _contents(image: ShardImage, dense: Mapping[str, _Dense]) -> Iterator[tuple[str, Any]]:
    for name, table in image.tables.items():
        for column, dtype in _DTYPES.items():
            values = np.ascontiguousarray(getattr(table, column), dtype)
            yield f"{name}.{column}", values.reshape(-1).view(np.uint8)
    for name, entry in dense.items():
        yield entry.file, image.dense[name].payload


def _write(path: Path, data: Any) -> _File:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _File(len(data), zlib.crc32(data))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first, whole or not."""
    return sorted(folder.glob(_PREFIX + "*"), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def load(path: Path) -> ShardImage:
    """The image in the checkpoint at `path`.

    Raises:
        CheckpointError: it is incomplete or damaged.
    """
    try:
        manifest = msgspec.json.decode((path / _MANIFEST).read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: manifest: {error}") from error
    if manifest.format != _FORMAT:
        raise CheckpointError(f"{path}: format {manifest.format}; legal is {_FORMAT}")

    def read(name: str) -> NDArray[np.uint8]:
        return _read(path / name, manifest.files.get(name))

    dense = {
        name: DenseVersion(entry.version, entry.step, read(entry.file).tobytes())
        for name, entry in manifest.dense.items()
    }
    tables = {name: _columns(name, dim, read) for name, dim in manifest.dims.items()}
    return ShardImage(manifest.clock, manifest.steps, tables, dense)


def _read(path: Path, expected: _File | None) -> NDArray[np.uint8]:
    if expected is None:
        raise CheckpointError(f"{path}: not in the manifest")
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if _File(len(data), zlib.crc32(data.data)) != expected:
        raise CheckpointError(f"{path}: does not match its size and checksum in the manifest")
    return data


def _columns(table: str, dim: int, read: Callable[[str], NDArray[np.uint8]]) -> Columns:
    columns = {name: read(f"{table}.{name}").view(dtype) for name, dtype in _DTYPES.items()}
    columns["vectors"] = columns["vectors"].reshape(-1, dim)
    rows = len(columns["ids"])
    columns["state"] = columns["state"].reshape(rows, -1) if rows else columns["state"].reshape(0, 0)
    return Columns(**columns)


def newest(folder: Path) -> ShardImage | None:
    """The image of the newest whole checkpoint in `folder`; None if there has never been one.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
    """
    problem: CheckpointError | None = None
    for path in found(folder):
        try:
            return load(path)
        except CheckpointError as error:
            _log.warning("checkpoint skipped: %s", error)
            problem = problem or error
    if problem is not None:
        raise problem
    return None
