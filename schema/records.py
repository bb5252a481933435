"""The records that travel through Kafka. Values only: the codec writes them, the roles give them meaning.

Columns are raw little-endian arrays held as `bytes`; each docstring gives dtype and shape, and the
accessors view them through numpy without a copy. Times are Unix milliseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]

POSITION_MISSING: Final = 0xFFFF
"""The position of an impression whose rank is unknown."""

_ID: Final = 8
_LENGTH: Final = 2
"""Bytes of an id, and of the number of a row's ids."""


def column(values: object, dtype: str) -> bytes:
    """The bytes of `values` as a little-endian column of `dtype`, such as "<u8"."""
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def cells(column: bytes, rows: Sequence[int], size: int) -> bytes:
    """The cells of `size` bytes of a column at `rows`, in that order."""
    if len(rows) == 1:  # every late positive
        return column[rows[0] * size : (rows[0] + 1) * size]
    return b"".join([column[row * size : (row + 1) * size] for row in rows])


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of the records: frozen, and written as arrays, so that fields can be appended but not moved.

    They hold no cycles, so the collector need not know of them: millions pass.
    """


class IdColumn(Record, frozen=True, array_like=True, gc=False):
    """The feature ids of one slot for n rows: ids <u8 (total,), lengths <u2 (n,), or empty: one id a row."""

    slot: int
    ids: bytes
    lengths: bytes = b""

    def values(self) -> U64:
        """All ids, row after row, shape (total,)."""
        return np.frombuffer(self.ids, "<u8")

    def row_lengths(self, rows: int) -> I64:
        """How many ids each of `rows` rows has, shape (rows,)."""
        if self.lengths:
            return np.frombuffer(self.lengths, "<u2").astype(np.int64)
        return np.ones(rows, np.int64)

    def fits(self, rows: int) -> bool:
        """Whether the column holds exactly `rows` rows."""
        if not self.lengths:
            return len(self.ids) == rows * 8
        if len(self.lengths) != rows * 2:
            return False
        if rows == 1:  # every context column: without the cost of an array
            return int.from_bytes(self.lengths, "little") * 8 == len(self.ids)
        return int(np.frombuffer(self.lengths, "<u2").sum()) * 8 == len(self.ids)

    def narrowed(self, rows: Sequence[int], n: int) -> IdColumn:
        """The column of `rows` alone, of its `n`, in that order."""
        if not self.lengths:
            return IdColumn(self.slot, cells(self.ids, rows, 8))
        ends = [0]
        for length in struct.unpack(f"<{n}H", self.lengths):
            ends.append(ends[-1] + 8 * length)
        ids = b"".join([self.ids[ends[row] : ends[row + 1]] for row in rows])
        return IdColumn(self.slot, ids, cells(self.lengths, rows, 2))


class Features(Record, frozen=True, array_like=True):
    """What the model sees of one request with n impressions.

    `context` holds one row a column, shared by every impression (user, surface, hour, history);
    `items` holds n rows. Dense values are <f4, shapes (c,) and (n, d), in the order of the feature config.
    """

    context: tuple[IdColumn, ...] = ()
    items: tuple[IdColumn, ...] = ()
    context_dense: bytes = b""
    item_dense: bytes = b""

    def fits(self, rows: int) -> bool:
        """Whether every column has the size that `rows` impressions need."""
        # one row, as every context column has: without a call for each of them
        single = self.context + self.items if rows == 1 else self.context
        for c in single:
            lengths = c.lengths
            if not lengths:
                if len(c.ids) != _ID:
                    return False
            elif len(lengths) != _LENGTH or len(c.ids) != _ID * (lengths[0] | lengths[1] << 8):
                return False
        return (
            (rows == 1 or all(c.fits(rows) for c in self.items))
            and len(self.context_dense) % 4 == 0
            and len(self.item_dense) % (4 * rows if rows else 1) == 0
        )

    def narrowed(self, rows: Sequence[int], n: int) -> Features:
        """What the model sees of the impressions `rows` alone, of `n`, in that order."""
        dense = self.item_dense
        return Features(
            self.context,
            tuple(column.narrowed(rows, n) for column in self.items),
            self.context_dense,
            cells(dense, rows, len(dense) // n) if dense else dense,
        )


class ModelVersion(Record, frozen=True, array_like=True):
    """The parameters that ranked a request: the dense version, and (epoch, clock) of each shard."""

    dense: int = 0
    shards: tuple[tuple[int, int], ...] = ()


class FeatureLog(Record, frozen=True, array_like=True, tag=1):
    """One served feed request and what its n impressions looked like to the model when it was served.

    items <i8 (n,), positions <u2 (n,), scores <f4 (n, tasks) or empty where nothing ranked them,
    propensities <f4 (n,): how likely each item had to be shown at its position, given those before it, or
    empty where the server does not explore. origins u1 (n,): what found each item, as the server numbers it
    (0 popularity, 1 newness, 2 retrieval), or empty where it does not say.
    """

    request_id: str
    user_id: Id
    event_time: Millis
    surface: int
    model: ModelVersion
    items: bytes
    positions: bytes
    features: Features
    scores: bytes = b""
    propensities: bytes = b""
    origins: bytes = b""

    def __len__(self) -> int:
        return len(self.items) // 8

    def item_ids(self) -> I64:
        """The items shown, shape (n,)."""
        return np.frombuffer(self.items, "<i8")

    def problem(self) -> str | None:
        """What is wrong with the columns, or None."""
        n = len(self)
        if n == 0 or len(self.items) % 8:
            return f"items: {len(self.items)} bytes; legal is a multiple of 8 above 0"
        if len(self.positions) != 2 * n:
            return f"positions: {len(self.positions)} bytes for {n} impressions; legal is {2 * n}"
        if len(self.scores) % (4 * n):
            return f"scores: {len(self.scores)} bytes for {n} impressions; legal is a multiple of {4 * n}"
        for name, size in (("propensities", 4 * n), ("origins", n)):
            if len(getattr(self, name)) not in (0, size):
                return f"{name}: {len(getattr(self, name))} bytes for {n} impressions; legal is 0 or {size}"
        if not self.features.fits(n):
            return f"features: a column does not hold {n} impressions"
        return None


class Heartbeat(Record, frozen=True, array_like=True, tag=2):
    """A producer's word that nothing older than `event_time` will follow on this partition.

    Sent at the end of a replay, so that its last attribution windows close.
    """

    event_time: Millis


class Action(Record, frozen=True, array_like=True, gc=False):
    """One thing a user did to one item of one request. `value` is the kind's own (seconds watched, …)."""

    request_id: str
    item_id: Id
    kind: str
    event_time: Millis
    value: float = 1.0


class ActionBatch(Record, frozen=True, array_like=True, tag=3):
    """Some actions of one user."""

    user_id: Id
    actions: tuple[Action, ...]


class Source(Record, frozen=True, array_like=True, gc=False):
    """Where a feature log lies in its topic: partition, offset, and its index within the envelope."""

    partition: int
    offset: int
    index: int = 0


class SampleBlock(Record, frozen=True, array_like=True, tag=4):
    """Training rows: n impressions of one request with their labels.

    rows <u2 (n,): which impressions of the feature log these are; items <i8 (n,), positions <u2 (n,),
    scores <f4 (n, tasks) or empty; labels <f4 (n, T) and mask u1 (n, T) for the T `tasks`: a row speaks for
    a task only where its mask is 1; log_keep <f4 (n,): the log-probability with which sampling kept the row.

    `labels` also holds, where the mask is 0, what was said of the row before: 1 for a positive.
    retract u1 (n, T), or empty for none: 1 where the pair was emitted as a negative before, which this
    positive takes back.

    `late_offset` is -1 but in a block that an action made after its request had closed: there it is the
    offset of that action's message. `resolved_below`: every block of a lower source offset of the partition
    (of a lower `late_offset`, in a late block) was emitted before this one, so a reader may forget them.
    `completed_at`: the wall-clock time at which Kafka had the message that completed these labels.

    propensities <f4 (n,), or empty where none is known: as the feature log has them, in (0, 1].
    """

    source: Source
    resolved_below: int
    completed_at: Millis
    request_id: str
    user_id: Id
    event_time: Millis
    surface: int
    tasks: tuple[str, ...]
    rows: bytes
    items: bytes
    positions: bytes
    features: Features
    labels: bytes
    mask: bytes
    log_keep: bytes
    scores: bytes = b""
    retract: bytes = b""
    late_offset: int = -1
    propensities: bytes = b""

    def __len__(self) -> int:
        return len(self.items) // 8

    def row_indices(self) -> U16:
        """The impression index of each row, shape (n,)."""
        return np.frombuffer(self.rows, "<u2")

    def item_ids(self) -> I64:
        """The items, shape (n,)."""
        return np.frombuffer(self.items, "<i8")

    def position_values(self) -> U16:
        """The positions shown at, POSITION_MISSING where unknown, shape (n,)."""
        return np.frombuffer(self.positions, "<u2")

    def label_matrix(self) -> F32:
        """Labels, shape (n, T)."""
        return np.frombuffer(self.labels, "<f4").reshape(len(self), -1)

    def mask_matrix(self) -> U8:
        """1 where a label is known, shape (n, T)."""
        return np.frombuffer(self.mask, "u1").reshape(len(self), -1)

    def retract_matrix(self) -> U8:
        """1 where a negative emitted before is taken back, shape (n, T)."""
        return np.frombuffer(self.retract or bytes(len(self.mask)), "u1").reshape(len(self), -1)

    def problem(self) -> str | None:
        """What is wrong with the columns, or None."""
        n, t = len(self.items) // 8, len(self.tasks)
        if n == 0 or len(self.items) % 8:
            return f"items: {len(self.items)} bytes; legal is a multiple of 8 above 0"
        have = (len(self.rows), len(self.positions), len(self.labels), len(self.mask), len(self.log_keep))
        want = (2 * n, 2 * n, 4 * n * t, n * t, 4 * n)
        if have != want:
            names = ("rows", "positions", "labels", "mask", "log_keep")
            at = next(i for i, size in enumerate(have) if size != want[i])
            return f"{names[at]}: {have[at]} bytes for {n} rows; legal is {want[at]}"
        for name, size in (("retract", n * t), ("propensities", 4 * n)):
            if len(getattr(self, name)) not in (0, size):
                return f"{name}: {len(getattr(self, name))} bytes for {n} rows; legal is {size}, or none"
        if not self.features.fits(n):
            return f"features: a column does not hold {n} rows"
        return None


class DeadLetter(Record, frozen=True, array_like=True, tag=5):
    """A message, or a record of one (`index`), that could not be used, where it lay and why."""

    topic: str
    partition: int
    offset: int
    index: int
    reason: str
    detail: str
    payload: bytes


class Profile(Record, frozen=True, array_like=True, tag=6):
    """What is known of a user or an item: named values, and named numbers. A later one replaces it."""

    kind: str
    id: Id
    event_time: Millis
    fields: dict[str, tuple[int | str, ...]]
    numbers: dict[str, float] = {}

    @property
    def key(self) -> bytes:
        """The compaction key in the catalogue topic."""
        return f"{self.kind}:{self.id}".encode()
