"""The requests of one partition that are open, or have closed and are on their way to the broker.

Each is an object, or no more than a slot of the register until somebody asks for it. Knows their windows and
what gathers; what becomes of them is the join's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streaming.closing import Closing, in_order
from streaming.gathering import Gathering, Heard
from streaming.hearing import hear
from streaming.late import Entry
from streaming.logs import Sheaf
from streaming.register import Closed, Gone, Register
from streaming.request import Request
from streaming.rules import Rules
from streaming.slots import Slots
from streaming.waiting import Waiting


class Requests:
    """They by id, and in the order in which their windows end. `open` is how many have not closed.

    Args:
        rules: the window and the tasks.
    """

    def __init__(self, rules: Rules) -> None:
        slots = Slots(len(rules.tasks))
        self.open = 0
        self.register = Register(rules, slots)
        self._gathering = Gathering(rules, slots)
        self._window = rules.window
        self._objects: dict[str, Request] = {}
        self._closing = Closing()
        self._to_gather: list[Request] = []

    def __iter__(self) -> Iterator[str]:
        """The ids of those that are objects."""
        return iter(self._objects)

    def get(self, request_id: str) -> Request | None:
        """The request of that id, as an object from now on."""
        request = self._objects.get(request_id)
        if request is None and (slot := self.register.find(request_id)) >= 0:
            request = self.lift(slot)
        return request

    def lift(self, slot: int) -> Request:
        """The request in a slot of the register, as an object from now on."""
        request = self.register.lift(slot)
        self._objects[request.request_id] = request
        if request.due:
            self._closing.add(request, request.event_time + self._window)
        return request

    def add(self, request: Request) -> None:
        """It opens."""
        self._objects[request.request_id] = request
        self._closing.add(request, request.event_time + self._window)
        self.open += 1

    def enter(self, sheaf: Sheaf, offset: int, names: Sequence[bytes], waiting: Waiting) -> NDArray[np.uint8]:
        """Open the requests of the message at `offset`, as no more than slots, of which nothing was heard.

        Args:
            sheaf: the message; the register takes it.
            offset: where it lies.
            names: its request ids.
            waiting: actions whose requests are not known.

        Returns:
            Which of its records have been opened, u1 (n,).
        """
        entered = np.ones(len(names), np.uint8)
        if self._objects or waiting:
            ids = map(bytes.decode, names)
            entered[:] = [name not in self._objects and name not in waiting for name in ids]
        self.open += self.register.enter(sheaf, offset, entered)
        return entered

    def delivered(self, requests: Sequence[Request | int]) -> tuple[list[Request], list[Entry], Gone]:
        """As `Register.delivered`, of those that are slots."""
        return self.register.delivered([one for one in requests if isinstance(one, int)])

    def come_back(self, request: Request) -> None:
        """It had been put away, and more is on its way."""
        self._objects[request.request_id] = request

    def drop(self, request: Request) -> None:
        """Nothing is on its way any more."""
        del self._objects[request.request_id]

    def forget(self, duplicate: Request) -> None:
        """It should not have opened."""
        self.drop(duplicate)
        duplicate.due = False
        self.open -= 1

    def in_order_of_logs(self) -> list[Request]:
        """The open ones that are objects."""
        return sorted(self._closing, key=lambda request: request.offset)

    def may_gather(self, request: Request) -> None:
        """Nothing is said of it before its close: an action only adds to its hits."""
        self._to_gather.append(request)

    def gather(self) -> None:
        """Let those gather that may."""
        begun, self._to_gather = self._to_gather, []
        self._gathering.enter(begun)

    def stop_gathering(self, request: Request) -> None:
        """An action may do more with it now than add to its hits."""
        if request.slot >= 0:
            self._gathering.leave([request])

    def hear(self, value: bytes | None, offset: int, limit: int) -> Heard:
        """As `hearing.hear`."""
        return hear(self._gathering, value, offset, limit)

    def close(self, watermark: int, stamp: tuple[int, int]) -> list[Request | Closed]:
        """Those whose windows ended before `watermark`, in order; see `Register.close`."""
        due = [request for request in self._closing.take(watermark) if request.due]
        plain = self.register.close(watermark, stamp)
        self.open -= len(due) + (len(plain.slots) if plain else 0)
        self._gathering.leave([request for request in due if request.slot >= 0])
        for request in due:
            request.due = False
        return in_order(due, plain, self._window)
