"""Records that wait on disk for a topic: numbered files, each one envelope, the oldest first, within a bound.

Knows the topic's codec, no broker. A file appears by one rename, so it is there wholly or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from schema.codec import Codec
from schema.errors import InvalidMessage

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".envelope"
_DAMAGED: Final = ".damaged"

R = TypeVar("R")


class Spool(Generic[R]):
    """A queue of batches in `folder`. For one thread at a time.

    Args:
        folder: made if it is not there; batches that an earlier process left in it come first.
        codec: how records are written.
        max_bytes: how much may lie there.
    """

    def __init__(self, folder: Path, codec: Codec[Any], max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._codec = codec
        self._max_bytes = max_bytes
        self._files = sorted(folder.glob(f"*{_SUFFIX}"))
        self._bytes = sum(file.stat().st_size for file in self._files)
        self._next = 1 + max((int(file.stem) for file in self._files), default=0)
        # what is left of the oldest batch, once it is read
        self._oldest: list[R] = []

    def __len__(self) -> int:
        return len(self._files)

    @property
    def bytes(self) -> int:
        """How much lies there."""
        return self._bytes

    def append(self, records: Sequence[R]) -> bool:
        """Write a batch; False where there is no room for it.

        Raises:
            OSError: the disk refuses it.
        """
        data = self._codec.encode(list(records))
        if self._bytes + len(data) > self._max_bytes:
            return False
        file = self._folder / f"{self._next:012d}{_SUFFIX}"
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(file)
        self._next += 1
        self._bytes += len(data)
        self._files.append(file)
        return True

    def oldest(self, most: int) -> list[R]:
        """At most `most` of the oldest records, none if there is none. A damaged batch is put aside."""
        while self._files and not self._oldest:
            try:
                self._oldest = self._codec.decode(self._files[0].read_bytes())
            except InvalidMessage as error:
                _log.error("%s is damaged (%s) and put aside", self._files[0], error)
                self._take().rename(self._folder / f"{self._next:012d}{_DAMAGED}")
                self._next += 1
        return self._oldest[:most]

    def drop(self, count: int) -> None:
        """Forget the `count` oldest records, which `oldest` gave: they have been delivered."""
        del self._oldest[:count]
        if not self._oldest:
            self._take().unlink()

    def _take(self) -> Path:
        file = self._files.pop(0)
        self._bytes -= file.stat().st_size
        return file
