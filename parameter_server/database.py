"""RocksDB as checkpoints use it: large values, put once, flushed by hand, linked, read by key.

Knows nothing of what the values are. Nothing is compacted: what is superseded goes with the whole database.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Self

from rocksdict import AccessType, Checkpoint, DBCompressionType, Options, Rdict, WriteOptions

from parameter_server.errors import CheckpointError

_MEBIBYTE: Final = 1 << 20
_FLUSH_BYTES: Final = 32 * _MEBIBYTE
_BUFFER_BYTES: Final = 4 * _FLUSH_BYTES
"""Never filled: a put that finds it full would wait for the disk and hold up every thread of the process."""
_MOST_FILES: Final = 1 << 20


class Database:
    """One RocksDB database.

    Args:
        path: where it is, or is to be made.
        read_only: leave it as it is.

    Raises:
        CheckpointError: it is damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._waiting = 0
        options = Options(raw_mode=True)
        options.create_if_missing(not read_only)
        options.set_compression_type(DBCompressionType.none())
        options.set_disable_auto_compactions(True)
        options.set_write_buffer_size(_BUFFER_BYTES)
        options.set_level_zero_slowdown_writes_trigger(_MOST_FILES)
        options.set_level_zero_stop_writes_trigger(_MOST_FILES)
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        try:
            self._db = Rdict(str(path), options, access_type=access)
        except Exception as error:  # the binding raises nothing narrower
            raise CheckpointError(f"{path}: {error}") from error
        if not read_only:
            writes = WriteOptions()
            writes.disable_wal = True  # type: ignore[method-assign, assignment] # the stub has it as a method
            self._db.set_write_options(writes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def discard(self) -> None:
        """Close and remove it; what was linked elsewhere stays."""
        self.close()
        shutil.rmtree(self._path)

    def put(self, key: bytes, value: bytes) -> None:
        """Keep `value`, on the disk once `link_to` has returned.

        Raises:
            OSError: the disk refused.
        """
        try:
            self._db[key] = value
            self._waiting += len(value)
            if self._waiting >= _FLUSH_BYTES:
                self._flush()
        except Exception as error:
            raise OSError(f"{self._path}: {error}") from error

    def _flush(self) -> None:
        self._db.flush()
        self._waiting = 0

    def get(self, key: bytes) -> bytes:
        """The value of `key`.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        try:
            value = self._db.get(key)
        except Exception as error:
            raise CheckpointError(f"{self._path}: {key!r}: {error}") from error
        if not isinstance(value, bytes):
            raise CheckpointError(f"{self._path}: {key!r} is missing")
        return value

    def link_to(self, path: Path) -> None:
        """Make `path` a database of all that was put, by hard links to this one's files.

        Raises:
            OSError: the disk refused.
        """
        try:
            self._flush()  # which lets other threads run; linking does not, so it should find nothing to do
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            raise OSError(f"{path}: {error}") from error


def link(source: Path, target: Path) -> None:
    """Make `target` a database that equals `source`, which is not open, and can be written to.

    The files of rows are never written to and are linked; the others are copied.
    """
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".sst":
            os.link(file, target / file.name)
        else:
            shutil.copyfile(file, target / file.name)
