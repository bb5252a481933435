"""Samples that touch and bring as many rows as a real feed does, and more, but never run out of new ones.

What a recovery point writes are the rows that changed since the last one, so what matters of a stream is how
many distinct ids come in so many rows, and how many of those never came before. KuaiRand's log (167,065 rows
of 24,079 users and 7,583 videos) has, in windows of its second half, and this stream has:

                   512 rows           10,000 rows          30,000 rows          never seen, of rows
    users          458 / 434          6,078 / 6,300        12,500 / 16,000      4.0 % / 4.0 %
    videos         392 / 351          2,500 / 4,100         3,800 / 9,400       0.7 % / 0.7 %
    watched      3,864 / 3,600        6,900 / 23,700        7,300 / 37,900
    long viewed  2,578 / 2,270        5,600 / 16,700        6,300 / 29,600
    liked          440 / 350          2,200 / 4,000         3,000 / 9,000

Short windows agree; long ones are larger here, since the log ends at the few users and videos that it was cut
down to, and a service does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from schema.codec import TRAINING_SAMPLES
from schema.config import Config, SlotConfig
from schema.ids import VALUE_BITS
from schema.records import F32, I64, U64, Features, IdColumn, SampleBlock, Source, column

_BLOCKS_A_MESSAGE: Final = 16
_MESSAGES_A_DRAW: Final = 64


@dataclass(frozen=True, slots=True)
class Mix:
    """How many users and items there are at a time, and the shares of rows of one that never came before."""

    users: int = 200_000
    items: int = 50_000
    new_users: float = 0.04
    new_items: float = 0.007


_USER_EXPONENT: Final = 0.9
_ITEM_EXPONENT: Final = 1.0
_HISTORIES: Final = {"watched": (39, 1.2), "long_viewed": (21, 1.2), "liked": (1, 1.0)}
"""How many items a row has of each history, and how unevenly they come."""
_PROFILE: Final = (25, 2138, 1.5)
_SMALL: Final = {"context.surface": 15, "context.hour": 24, "item.tag": 47, "item.type": 3}
_SHARED_AUTHORS: Final = 10
"""One in so many items has the author of the item before it."""


class Population:
    """So many ids at a time, some far more frequent than others; a new one takes the place of one of them."""

    def __init__(self, kinds: int, rng: np.random.Generator) -> None:
        self._ids: I64 = np.arange(1, kinds + 1)
        self._born = kinds
        self._rng = rng

    def draw(self, count: int, exponent: float) -> I64:
        """`count` ids, the odds of the one at rank r about 1 / r^exponent."""
        ranks = zipf(self._rng, len(self._ids), exponent, count)
        return self._ids[ranks]

    def meet(self, count: int, exponent: float, new: float) -> I64:
        """As `draw`, but a share `new` of the ids never came before; they may come again."""
        ids = self.draw(count, exponent)
        fresh = np.flatnonzero(self._rng.random(count) < new)
        ids[fresh] = self._born + 1 + np.arange(len(fresh))
        self._born += len(fresh)
        self._ids[self._rng.integers(0, len(self._ids), len(fresh))] = ids[fresh]
        return ids


class Stream:
    """Messages for `config`'s slots, one row a request, a function of `mix` and `seed`."""

    def __init__(self, config: Config, mix: Mix, seed: int) -> None:
        self._config, self._mix = config, mix
        self._rng = np.random.default_rng(seed)
        self._users, self._items = Population(mix.users, self._rng), Population(mix.items, self._rng)
        self._tasks = tuple(task.name for task in config.tasks)
        self._priors = np.array([task.prior for task in config.tasks])
        self._offset = 0

    def messages(self, rows: int) -> list[bytes]:
        """So many envelopes as hold at least `rows` rows."""
        count = -(-rows // _BLOCKS_A_MESSAGE)
        found: list[bytes] = []
        while len(found) < count:
            found += self._draw(min(_MESSAGES_A_DRAW, count - len(found)))
        return found

    def _draw(self, messages: int) -> list[bytes]:
        n = messages * _BLOCKS_A_MESSAGE
        mix = self._mix
        users = self._users.meet(n, _USER_EXPONENT, mix.new_users)
        items = self._items.meet(n, _ITEM_EXPONENT, mix.new_items)
        slots = [(slot, self._values(slot, users, items)) for slot in self._config.features.slots]
        labels = (self._rng.random((n, len(self._tasks))) < self._priors).astype("<f4")
        dense = self._rng.normal(size=n).astype("<f4")
        found = []
        for start in range(0, n, _BLOCKS_A_MESSAGE):
            blocks = [
                self._block(row - start, row, slots, (users, items), (labels, dense))
                for row in range(start, start + _BLOCKS_A_MESSAGE)
            ]
            found.append(TRAINING_SAMPLES.encode(blocks))
            self._offset += 1
        return found

    def _values(self, slot: SlotConfig, users: I64, items: I64) -> U64:
        """The ids (n, k) that each of n rows has in `slot`."""
        rng, n = self._rng, len(users)
        kind, _, name = slot.source.partition(".")
        if kind == "history":
            length, exponent = _HISTORIES[name]
            values = self._items.draw(n * length, exponent)
        elif slot.source == "user.profile":
            length, kinds, exponent = _PROFILE
            values = zipf(rng, kinds, exponent, n * length)
        elif slot.source == "item.author":
            values = items - (items % _SHARED_AUTHORS == 0)
        else:
            own = {"user.id": users, "item.id": items}
            values = own[slot.source] if slot.source in own else zipf(rng, _SMALL[slot.source], 1.0, n)
        return _in_slot(slot, values.reshape(n, -1))

    def _block(
        self,
        index: int,
        row: int,
        slots: list[tuple[SlotConfig, U64]],
        who: tuple[I64, I64],
        what: tuple[F32, F32],
    ) -> SampleBlock:
        users, items = who
        labels, dense = what
        columns = [(slot.source.startswith("item."), _column(slot, ids[row])) for slot, ids in slots]
        return SampleBlock(
            source=Source(0, self._offset, index),
            resolved_below=self._offset,
            completed_at=1_000_000 + self._offset,
            request_id=f"{self._offset}-{index}",
            user_id=int(users[row]),
            event_time=1_000_000 + self._offset,
            surface=0,
            tasks=self._tasks,
            rows=_FIRST,
            items=column(items[row : row + 1], "<i8"),
            positions=_FIRST,
            features=Features(
                context=tuple(c for of_item, c in columns if not of_item),
                items=tuple(c for of_item, c in columns if of_item),
                item_dense=dense[row : row + 1].tobytes(),
            ),
            labels=labels[row].tobytes(),
            mask=bytes([1]) * len(self._tasks),
            log_keep=bytes(4),
        )


def standing_ids(config: Config, mix: Mix) -> Iterator[U64]:
    """By slot, the ids that a stream of `mix` draws from when it begins, but for the few of small slots."""
    for slot in config.features.slots:
        of_items = slot.source.startswith("history.") or slot.source in {"item.id", "item.author"}
        kinds = mix.users if slot.source == "user.id" else mix.items if of_items else 0
        yield _in_slot(slot, np.arange(1, kinds + 1))


def _in_slot(slot: SlotConfig, values: I64) -> U64:
    return (values + (slot.slot << VALUE_BITS)).astype("<u8")


_FIRST: Final = column([0], "<u2")


def _column(slot: SlotConfig, ids: U64) -> IdColumn:
    several = slot.source.startswith("history.") or slot.source == "user.profile"
    return IdColumn(slot.slot, ids.tobytes(), column([len(ids)], "<u2") if several else b"")


def zipf(rng: np.random.Generator, kinds: int, exponent: float, count: int) -> I64:
    """`count` ranks from 0 to below `kinds`, the odds of rank r about 1 / (r + 1)^exponent."""
    even, rest = rng.random(count), 1 - exponent
    most = kinds + 1
    drawn = most**even if not rest else (1 + even * (most**rest - 1)) ** (1 / rest)
    return np.minimum(drawn.astype(np.int64), kinds) - 1
