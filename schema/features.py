"""Turns what is known of a user, a moment and some items into the model's feature columns.

The replay, the simulator and the serving replica all build features here, so that what is trained on is
what is served with. Pure: no clock, no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Final

import numpy as np

from schema.config import DenseConfig, FeaturesConfig, SlotConfig
from schema.ids import feature_ids
from schema.records import F32, Features, IdColumn, Profile

_ONE: Final = {8}
"""The sizes of cells of one id each."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A user's or an item's own features, laid out as the columns are: cells to be put behind one another.

    `ids` <u8 (n,) for each slot of its kind, `values` <f4 (d,) its dense values.
    """

    ids: tuple[bytes, ...]
    values: bytes

    @property
    def dense(self) -> F32:
        """The dense values, shape (d,)."""
        return np.frombuffer(self.values, "<f4")

    def slot(self, index: int) -> list[int]:
        """The ids of the slot at `index` among those of its kind."""
        ids: list[int] = np.frombuffer(self.ids[index], "<u8").tolist()
        return ids


@dataclass(frozen=True, slots=True)
class Moment:
    """When and where a feed is asked for, and the user's histories (name to item ids, oldest first)."""

    event_time: int
    surface: int
    histories: Mapping[str, Sequence[int]]


class FeatureBuilder:
    """Builds `Features` as the feature configuration says.

    A slot's `source` is `user.id`, `item.id`, a field of the user's or the item's profile,
    `context.surface`, `context.hour` (of the day), `context.weekday`, or `history.<name>`. A field that a
    profile lacks gives no id.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        numbers = {s.name: s.slot for s in config.slots}
        self._id_slot = {s.name: numbers[s.ids_of or s.name] for s in config.slots}
        self._user_slots = [s for s in config.slots if s.source.startswith("user.")]
        self._item_slots = [s for s in config.slots if s.source.startswith("item.")]
        self._moment_slots = [s for s in config.slots if s.source.startswith(("context.", "history."))]
        self._user_dense = [d for d in config.dense if d.source.startswith("user.")]
        self._item_dense = [d for d in config.dense if d.source.startswith("item.")]
        self._history_length = {h.name: h.length for h in config.histories}
        self._zone = timedelta(hours=config.timezone_hours)

    def user(self, user_id: int, profile: Profile | None) -> Encoded:
        """The encoded user; `profile` is None where nothing but the id is known."""
        return self._encode(user_id, profile, self._user_slots, self._user_dense)

    def item(self, item_id: int, profile: Profile | None) -> Encoded:
        """The encoded item; `profile` is None where nothing but the id is known."""
        return self._encode(item_id, profile, self._item_slots, self._item_dense)

    def build(self, user: Encoded, moment: Moment, items: Sequence[Encoded]) -> Features:
        """The feature columns of one request that shows `items` to `user` at `moment`."""
        pairs = chain(zip(self._user_slots, user.ids, strict=True), self._moment_ids(moment))
        context = tuple([_ragged(slot.slot, (ids,)) for slot, ids in pairs])
        by_slot = zip(*[item.ids for item in items], strict=True) if items else repeat(())
        columns = tuple([_ragged(s.slot, cells) for s, cells in zip(self._item_slots, by_slot, strict=False)])
        return Features(context, columns, user.values, b"".join([item.values for item in items]))

    def _encode(
        self, own_id: int, profile: Profile | None, slots: list[SlotConfig], dense: list[DenseConfig]
    ) -> Encoded:
        fields = profile.fields if profile else {}
        numbers = profile.numbers if profile else {}
        ids = []
        for slot in slots:
            field = slot.source.partition(".")[2]
            values = (own_id,) if field == "id" else fields.get(field, ())
            ids.append(_cell(feature_ids(self._id_slot[slot.name], values)))
        values_ = [_transformed(d, numbers.get(d.source.partition(".")[2], 0.0)) for d in dense]
        return Encoded(tuple(ids), np.array(values_, "<f4").tobytes())

    def _moment_ids(self, moment: Moment) -> list[tuple[SlotConfig, bytes]]:
        local = datetime.fromtimestamp(moment.event_time / 1000, UTC) + self._zone
        context = {"surface": moment.surface, "hour": local.hour, "weekday": local.weekday()}
        found = []
        for slot in self._moment_slots:
            origin, _, field = slot.source.partition(".")
            if origin == "context":
                values: Sequence[int] = (context[field],)
            else:
                values = moment.histories.get(field, ())[-self._history_length[field] :]
            found.append((slot, _cell(feature_ids(self._id_slot[slot.name], values))))
        return found


def _cell(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}Q", *ids)


def _ragged(slot: int, rows: Sequence[bytes]) -> IdColumn:
    flat = b"".join(rows)
    if set(map(len, rows)) == _ONE:
        return IdColumn(slot, flat)
    return IdColumn(slot, flat, struct.pack(f"<{len(rows)}H", *[len(row) // 8 for row in rows]))


def _transformed(dense: DenseConfig, value: float) -> float:
    return float(np.log1p(max(value, 0.0))) if dense.transform == "log1p" else value
