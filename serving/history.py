"""What each user did lately, as the feature configuration's histories ask for it.

Pure: knows no topic. In memory, bounded in users and in length; who is not there is asked of `load`, and who
has changed is told by `changed`, so that a store on disk can hold everybody.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from schema.config import HistoryConfig

EXPOSED: Final = "exposed"
"""The kind under which an impression counts in a history; only feature logs tell of impressions."""

MAX_USERS: Final = 200_000

_STATE: Final = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


@dataclass(frozen=True, slots=True)
class _Events:
    """One user's items of one history, in event-time order; equal times in order of arrival."""

    times: array[int] = field(default_factory=lambda: array("q"))
    items: array[int] = field(default_factory=lambda: array("q"))

    def state(self) -> tuple[bytes, bytes]:
        return self.times.tobytes(), self.items.tobytes()

    @classmethod
    def restored(cls, times: bytes, items: bytes) -> _Events:
        return cls(array("q", times), array("q", items))

    def add(self, time: int, items: Sequence[int], length: int) -> None:
        if not self.times or self.times[-1] <= time:
            self.times.extend([time] * len(items))
            self.items.extend(items)
        else:
            at = bisect_right(self.times, time)
            self.times[at:at] = array("q", [time] * len(items))
            self.items[at:at] = array("q", items)
        if len(self.times) > length:
            del self.times[:-length], self.items[:-length]


class Histories:
    """The histories of the users seen last. One thread may add while others read.

    Args:
        config: which histories there are.
        max_users: beyond this many users, the one that was quiet longest is forgotten.
    """

    def __init__(self, config: Sequence[HistoryConfig], max_users: int = MAX_USERS) -> None:
        self._config = tuple(config)
        self._max_users = max_users
        self._of_kind: dict[str, list[int]] = {}
        for index, history in enumerate(config):
            for kind in history.actions:
                self._of_kind.setdefault(kind, []).append(index)
        # its methods are atomic, so that a reader never misses a user whose place is being changed
        self._users: OrderedDict[int, tuple[_Events, ...]] = OrderedDict()
        self._changed: set[int] = set()
        self.load: Callable[[int], bytes | None] | None = None

    @property
    def signature(self) -> bytes:
        """What a saved state is good for: the histories, in order, with their actions and lengths."""
        return ";".join(f"{h.name}:{','.join(h.actions)}:{h.length}" for h in self._config).encode()

    def changed(self) -> Iterator[tuple[int, bytes]]:
        """The users who changed since this was last asked, and their states. For the adding thread."""
        changed, self._changed = self._changed, set()
        for user in changed:
            yield user, msgspec.msgpack.encode([events.state() for events in self._users[user]])

    def clear(self) -> None:
        """Forget everybody."""
        self._users.clear()
        self._changed.clear()

    def __len__(self) -> int:
        return len(self._users)

    def add(self, user_id: int, kind: str, items: Sequence[int], time: int) -> None:
        """Note that `user_id` did `kind` to `items`, in that order, at `time` in Unix ms."""
        indices = self._of_kind.get(kind)
        if indices is None or not items:
            return
        events = self._events(user_id)
        if self.load is not None:
            self._changed.add(user_id)
        for index in indices:
            events[index].add(time, items, self._config[index].length)

    def of(self, user_id: int) -> dict[str, list[int]]:
        """The user's items by history name, oldest first; empty lists for a user who is not known."""
        events = self._users.get(user_id) or self._loaded(user_id)
        if events is None:
            return {history.name: [] for history in self._config}
        return {h.name: e.items.tolist() for h, e in zip(self._config, events, strict=True)}

    def _events(self, user_id: int) -> tuple[_Events, ...]:
        events = self._users.get(user_id)
        if events is not None:
            self._users.move_to_end(user_id)
            return events
        events = self._loaded(user_id) or tuple(_Events() for _ in self._config)
        self._users[user_id] = events
        if len(self._users) > self._max_users:
            self._forget_oldest()
        return events

    def _forget_oldest(self) -> None:
        """Forget the user who was quiet longest, unless that user's state is yet to be saved."""
        oldest = next((user for user in self._users if user not in self._changed), next(iter(self._users)))
        del self._users[oldest]
        self._changed.discard(oldest)

    def _loaded(self, user_id: int) -> tuple[_Events, ...] | None:
        state = None if self.load is None else self.load(user_id)
        if state is None:
            return None
        return tuple(_Events.restored(times, items) for times, items in _STATE.decode(state))
