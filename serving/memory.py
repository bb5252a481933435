"""What a replica remembers across restarts: users' histories, what was popular, and how far it had read.

Owns the RocksDB folder. All that one save holds becomes durable together, so that what is read on from the
saved positions is counted exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from rocksdict import Options, Rdict, WriteBatch

from schema.errors import HeadwaterError
from serving.history import Histories
from serving.popularity import Popularity

_log = logging.getLogger(__name__)

_FORMAT: Final = b"1"
_META: Final = b"meta"
_POSITIONS: Final = b"positions"
_POPULARITY: Final = b"popularity"
_USER: Final = b"u"

Place = tuple[str, int]
"""A topic and a partition of it."""


class MemoryUnusable(HeadwaterError):  # noqa: N818 - named for the state
    """The folder cannot be opened: another replica holds it, or the disk refuses. The text names it."""


class Memory:
    """The memory in `folder`, made if it is not there. `user` may be asked from any thread.

    Raises:
        MemoryUnusable: see there.
    """

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.set_keep_log_file_num(2)
        try:
            self._db = Rdict(str(folder), options)
        except Exception as error:  # the library raises Exception itself
            raise MemoryUnusable(
                f"{folder}: cannot be opened ({error}); legal is a folder of its own"
            ) from error
        self._positions_decoder = msgspec.msgpack.Decoder(dict[str, dict[int, int]])

    def restore(self, histories: Histories, popularity: Popularity) -> dict[Place, int]:
        """Give back what was saved: popularity at once, histories when asked for. Returns where to read on.

        What was saved for other histories or another half-life than are configured now is forgotten, with all
        the rest.
        """
        signature = _signature(histories, popularity)
        if self._db.get(_META) != signature:
            self._clear()
            self._db[_META] = signature
        histories.load = self.user
        popularity.restore(self._db.get(_POPULARITY) or b"")
        positions = self._positions_decoder.decode(self._db.get(_POSITIONS) or b"\x80")
        return {(topic, p): offset for topic, of in positions.items() for p, offset in of.items()}

    def user(self, user_id: int) -> bytes | None:
        """The saved history of a user."""
        found: bytes | None = self._db.get(_key(user_id))
        return found

    def save(self, histories: Histories, popularity: Popularity, positions: Mapping[Place, int]) -> None:
        """Keep what has changed since the last save, and where the topics are read on."""
        by_topic: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in positions.items():
            by_topic.setdefault(topic, {})[partition] = offset
        batch = WriteBatch(raw_mode=True)
        for user, state in histories.changed():
            batch.put(_key(user), state)
        batch.put(_POPULARITY, popularity.state())
        batch.put(_POSITIONS, msgspec.msgpack.encode(by_topic))
        self._db.write(batch)

    def forget(self, histories: Histories, popularity: Popularity) -> None:
        """Begin anew, as the topics themselves have."""
        _log.warning("the topics are not those of the saved positions; histories and popularity begin anew")
        self._clear()
        self._db[_META] = _signature(histories, popularity)
        histories.clear()
        popularity.restore(b"")

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()

    def _clear(self) -> None:
        for key in list(self._db.keys()):
            del self._db[key]


def _signature(histories: Histories, popularity: Popularity) -> bytes:
    return b"|".join((_FORMAT, histories.signature, popularity.signature))


def _key(user_id: int) -> bytes:
    return _USER + user_id.to_bytes(8, "big")
