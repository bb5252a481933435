"""The late store on disk: one RocksDB for each partition, of feature logs and what was emitted of them.

Knows keys, bytes and RocksDB's errors; how it is set up, `rocks_options` knows.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import WriteBatch

from streaming.kernels.register import STATE_KEY
from streaming.late import Entry, Group, LateStoreError, Place
from streaming.request import Request, State
from streaming.rocks_options import no_log, opened

_MARK: Final = b"m"
_STATE: Final = bytes([STATE_KEY])
_LOG: Final = b"l"
_GROUP: Final = b"a"
_PLACE: Final = b"o"
_PENDING: Final = 128
"""So many entries are written at once. RocksDB's binding holds the interpreter meanwhile, so that a thread of
their own would only add changes of hands."""
_PERSIST_MS: Final = 10_000
_VERSION: Final = 3
_ELSEWHERE: Final = object()


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a store goes, as of wall-clock time `at`, Unix ms.

    It holds every feature log below offset `low` and every parked action below `actions`.
    """

    low: int
    at: int
    actions: int = 0
    version: int = _VERSION


class RocksStore:
    """A late store in `folder`, which is made if it is not there.

    Args:
        folder: where; no other process may have it open.
        keep_seconds: entries older than this are dropped as RocksDB compacts.

    Raises:
        LateStoreError: it cannot be opened, or holds nonsense.
    """

    _folder: Path
    _pending: dict[bytes, bytes | None]  # None: it is removed
    _persist_at: int

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self._prepare(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = opened(folder, max(1, int(keep_seconds)))
            self.mark: Mark | None = self._get(_MARK, _mark)
        except LateStoreError:
            raise
        except Exception as error:  # RocksDB raises bare exceptions
            raise LateStoreError(f"{folder}: {error}") from error

    def twin(self) -> RocksStore:
        """The same store for another thread: each collects its own writes."""
        twin = RocksStore.__new__(RocksStore)
        twin._prepare(self._folder)  # noqa: SLF001
        twin._db, twin.mark = self._db, self.mark  # noqa: SLF001
        return twin

    def state(self, request_id: str) -> State | None:
        """As `late.LateStore`."""
        state: State | None = self._get(_STATE + request_id.encode(), self._decode_state)
        return state

    def states(self, request_ids: Sequence[str]) -> list[State | None]:
        """As `late.LateStore`."""
        keys: list[Any] = [_STATE + request_id.encode() for request_id in request_ids]
        values = map(self._pending.get, keys, self._on_disk(keys))
        decode = self._decode_state
        try:
            return [None if value is None else decode(value) for value in values]
        except msgspec.DecodeError as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def knows_any(self, names: Sequence[bytes], *, parked: bool) -> bool:
        """As `late.LateStore`."""
        keys: list[Any] = [_STATE + name for name in names]
        if parked:
            keys += [_GROUP + name for name in names]
        stored = self._on_disk(keys)
        if not self._pending.keys().isdisjoint(keys):
            return True
        return stored.count(None) < len(keys)

    def _on_disk(self, keys: list[Any]) -> list[Any]:
        """The values that were written, whatever waits to be."""
        try:
            stored: Any = self._db.get(keys)
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error
        return list(stored)

    def log(self, request_id: str) -> bytes | None:
        """As `late.LateStore`."""
        packed: bytes | None = self._get(_LOG + request_id.encode(), bytes)
        return packed

    def put_state(self, request_id: str, state: State) -> None:
        """As `late.LateStore`."""
        self._put(_STATE + request_id.encode(), self._encode(state))

    def put_log(self, request_id: str, packed: bytes) -> None:
        """As `late.LateStore`."""
        self._put(_LOG + request_id.encode(), packed)

    def put_closed(self, requests: Sequence[Request]) -> None:
        """As `late.LateStore`."""
        pending, encode = self._pending, self._encode
        for request in requests:
            pending[_STATE + request.request_id.encode()] = encode(request.state())
        self._flush_some()

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """As `late.LateStore`."""
        self._pending.update(entries)
        self._flush_some()

    def group(self, request_id: str) -> Group | None:
        """As `late.LateStore`."""
        group: Group | None = self._get(_GROUP + request_id.encode(), self._decode_group)
        return group

    def put_group(self, request_id: str, group: Group) -> None:
        """As `late.LateStore`."""
        self._put(_place_key(Place(group.offset, request_id)), b"")
        self._put(_GROUP + request_id.encode(), self._encode(group))

    def drop_group(self, place: Place) -> None:
        """As `late.LateStore`."""
        self._put(_place_key(place), None)
        self._put(_GROUP + place.request_id.encode(), None)

    def next_group(self, after: Place) -> Place | None:
        """As `late.LateStore`."""
        self.flush()
        try:
            found = self._db.iter()
            found.seek(_place_key(after) + b"\0" if after.offset >= 0 else _PLACE)
            key = found.key() if found.valid() else None
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error
        if not isinstance(key, bytes) or key[:1] != _PLACE:
            return None
        return Place(int.from_bytes(key[1:9], "big"), key[9:].decode())

    def set_mark(self, low: int, actions: int) -> None:
        """State how far the store goes; with the next `flush`, and to outlive a kill within ten seconds."""
        self.mark = Mark(low, time.time_ns() // 1_000_000, actions)
        self._put(_MARK, self._encode(self.mark))
        if self.mark.at >= self._persist_at:
            self._persist_at = self.mark.at + _PERSIST_MS
            self.flush()
            self._persist()

    def flush(self) -> None:
        """As `late.LateStore`; what a kill loses of it is read again from Kafka."""
        if not self._pending:
            return
        entries, self._pending = self._pending, {}
        try:
            batch = WriteBatch(raw_mode=True)
            for key, value in entries.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            self._db.write(batch, self._how)
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def _persist(self) -> None:
        try:
            self._db.flush(wait=False)
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def size(self) -> int:
        """Bytes on disk and in RocksDB's buffers, roughly."""
        try:
            names = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
            return sum(self._db.property_int_value(name) or 0 for name in names)
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def close(self) -> None:
        """Let go of the folder. What was flushed is on disk then, what was not is lost."""
        try:
            self._db.close()
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def _prepare(self, folder: Path) -> None:
        self._folder = folder
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_state = msgspec.msgpack.Decoder(State).decode
        self._decode_group = msgspec.msgpack.Decoder(Group).decode
        self._pending = {}
        self._how = no_log()
        self._persist_at = 0

    def _get(self, key: bytes, decode: Any) -> Any:
        try:
            value = self._pending.get(key, _ELSEWHERE)
            if value is _ELSEWHERE:
                value = self._db.get(key)
            return None if value is None else decode(value)
        except Exception as error:
            raise LateStoreError(f"{self._folder}: {error}") from error

    def _put(self, key: bytes, value: bytes | None) -> None:
        self._pending[key] = value
        self._flush_some()

    def _flush_some(self) -> None:
        """Write what was put, once it is worth it."""
        if len(self._pending) >= _PENDING:
            self.flush()


def _mark(value: bytes) -> Mark:
    version = msgspec.msgpack.decode(value)[-1]
    if version != _VERSION:
        raise ValueError(f"version {version}; legal is {_VERSION}")
    return msgspec.msgpack.decode(value, type=Mark)


def _place_key(place: Place) -> bytes:
    return _PLACE + place.offset.to_bytes(8, "big") + place.request_id.encode()


def destroy(folder: Path) -> None:
    """Remove the store in `folder`, whatever state it is in.

    Raises:
        LateStoreError: it cannot be removed.
    """
    try:
        shutil.rmtree(folder, ignore_errors=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LateStoreError(f"{folder}: {error}") from error
