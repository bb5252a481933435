"""What a batch says to retrieval: which items were shown, and who engaged with which, after what history.

Pure: samples in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.retrieval.items import WIDTH, Contents, Parts, packed_ids
from models.retrieval.structure import PathStructure
from schema.config import Config, RetrievalConfig
from schema.ids import VALUE_LIMIT
from schema.records import I64, U64
from trainer.rows import Rows

_VALUES: Final = np.uint64(VALUE_LIMIT - 1)


@dataclass(frozen=True, slots=True)
class Engagements:
    """n distinct items, and m engagements of R users.

    `shown` i64 (n,), ascending, with their feature ids `contents` u64 (n, WIDTH). Of the users, whose
    requests (their number is `requests`) have at least one engagement: the items of all histories `history`
    i64 (total,), whose those are `owners` i64 (total,), and `own` u64 (R,), the users' own feature ids, 0 for
    none; None if not wanted. Of the pairs, in order: `users` i64 (m,), and the items `engaged` i64 (m,).
    `event_time` is that of the middle one of all requests, Unix ms.
    """

    shown: I64
    contents: U64
    requests: int
    history: I64
    owners: I64
    own: U64 | None
    users: I64
    engaged: I64
    event_time: int

    def joined(self, items: I64, contents: U64) -> Engagements:
        """With further `items` (k,) and their feature ids (k, WIDTH); what is shown stays as it is."""
        new = ~np.isin(items, self.shown)
        shown = np.concatenate([self.shown, items[new]])
        order = np.argsort(shown)
        both = np.concatenate([self.contents, contents[new]])
        return replace(self, shown=shown[order], contents=both[order])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Engagements that wait for the rows of all who take part.

    `items` i64 (n,) are these, made of `parts`, where the users' own ids follow behind them; `new` bool (n,)
    says which are not on the structure. `shown`, `contents`, `users`, `engaged`, `event_time` are as above.
    What is left are places in `items`: of the histories (total,), which start at `starts` (R,), of the users'
    own ids (R,) in `parts`, of the softmax's candidates (c,), of the items drawn evenly (k,); and `positives`
    i64 (m,), the places of the pairs' items among the candidates.
    """

    items: I64
    parts: Parts
    new: NDArray[np.bool_]
    shown: I64
    contents: U64
    history: I64
    starts: I64
    own: I64 | None
    candidates: I64
    drawn: I64
    users: I64
    engaged: I64
    positives: I64
    event_time: int


class EngagementReader:
    """Reads batches as the configuration's retrieval section says.

    The value of a history's feature id is the item's id, so an item whose id has more than 48 bits is learned
    and found, but helps to find no other.
    """

    def __init__(self, config: Config, retrieval: RetrievalConfig) -> None:
        slots = config.features.slots
        names = [task.name for task in config.tasks]
        self._task = names.index(retrieval.positives or names[0])
        source = f"history.{retrieval.history}"
        self._history = next(s.slot for s in slots if s.source == source)
        self._own = next((s.slot for s in slots if s.source == "user.id" and retrieval.user_id), None)
        self._items = [s.slot for s in slots if s.source.startswith("item.")]

    def read(self, rows: Rows) -> Engagements:
        """What `rows` say."""
        items, owners = rows.items(), rows.each(np.arange(len(rows.counts())))
        shown, first = np.unique(items, return_index=True)
        engaged = (rows.labels()[:, self._task] > 0) & (rows.mask()[:, self._task] > 0)
        active, users = np.unique(owners[engaged], return_inverse=True)
        histories, lengths = rows.context_ids(self._history, active)
        times = np.sort(rows.event_times())
        return Engagements(
            shown,
            packed_ids([rows.item_ids(slot) for slot in self._items], len(items))[first],
            len(active),
            (histories & _VALUES).astype(np.int64),
            np.repeat(np.arange(len(active)), lengths),
            None if self._own is None else _first(*rows.context_ids(self._own, active)),
            users,
            items[engaged],
            int(times[len(times) // 2]),
        )


def wanted(read: Engagements, drawn: I64, structure: PathStructure, contents: Contents) -> Wanted:
    """What is needed to learn from `read`, with the distinct items `drawn` as further candidates.

    Of histories the items count of which something is known: those on the structure, or in the batch.
    """
    known = (structure.rows_of(read.history) >= 0) | np.isin(read.history, read.shown)
    history = read.history[known]
    items = np.unique(np.concatenate([read.shown, history, drawn]))
    rows = structure.rows_of(items)
    packed = np.zeros((len(items), WIDTH), np.uint64)
    packed[rows >= 0] = contents.of(rows[rows >= 0])
    packed[np.searchsorted(items, read.shown)] = read.contents
    candidates = np.unique(np.concatenate([read.engaged, drawn]))
    own = None
    if read.own is not None:
        own = len(items) + np.arange(read.requests)
        packed = np.concatenate([packed, np.pad(read.own[:, None], ((0, 0), (0, WIDTH - 1)))])
    return Wanted(
        items,
        Parts.of(packed),
        rows < 0,
        read.shown,
        read.contents,
        np.searchsorted(items, history),
        np.searchsorted(read.owners[known], np.arange(read.requests)),
        own,
        np.searchsorted(items, candidates),
        np.searchsorted(items, drawn),
        read.users,
        read.engaged,
        np.searchsorted(candidates, read.engaged),
        read.event_time,
    )


def _first(ids: U64, lengths: I64) -> U64:
    """The first id of each row, 0 for none."""
    first = np.zeros(len(lengths), np.uint64)
    some = lengths > 0
    first[some] = ids[(np.cumsum(lengths) - lengths)[some]]
    return first
