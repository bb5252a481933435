"""Named versions of opaque dense parameters. Knows nothing of what the bytes mean."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple


class DenseVersion(NamedTuple):
    """One published version of dense parameters, and the trainer's step that it is of."""

    version: int
    step: int
    payload: bytes


class DenseStore:
    """The newest version of each name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, DenseVersion] = {}
        self.revision = 0
        """Rises with every change."""

    def put(self, name: str, value: DenseVersion) -> bool:
        """Store `value` if its version is above the stored one's; whether it was stored."""
        with self._lock:
            held = self._versions.get(name)
            if held is not None and held.version >= value.version:
                return False
            self._versions[name] = value
            self.revision += 1
            return True

    def replace(self, versions: Mapping[str, DenseVersion]) -> None:
        """Hold `versions` and no others, older ones too."""
        with self._lock:
            self._versions = dict(versions)
            self.revision += 1

    def get(self, name: str, newer_than: int) -> DenseVersion | None:
        """The stored version of `name`, or None if there is none above `newer_than`."""
        with self._lock:
            held = self._versions.get(name)
        return held if held is not None and held.version > newer_than else None

    def all(self) -> dict[str, DenseVersion]:
        """Every name's stored version."""
        with self._lock:
            return dict(self._versions)
