"""The check-ins as lists of items a user, and the quality of recommendations against a split held back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Lists:
    """Items of users: user u has `items[starts[u]:starts[u + 1]]`, ascending."""

    items: I64
    starts: I64

    def of(self, users: I64) -> tuple[I64, I64]:
        """The items of `users` one after another, and how many each has."""
        counts = self.starts[users + 1] - self.starts[users]
        begins = np.repeat(self.starts[users] - (np.cumsum(counts) - counts), counts)
        return self.items[begins + np.arange(counts.sum())], counts

    def only(self, users: I64) -> Lists:
        """The lists of `users` alone, in their order."""
        items, counts = self.of(users)
        return Lists(items, np.concatenate(([0], np.cumsum(counts))))


@dataclass(frozen=True)
class Checkins:
    """What each user is known to like, and what is to be found: the split that judges."""

    known: Lists
    hidden: Lists
    users: int
    items: int


def load(folder: Path, judge: Literal["valid", "test"] = "test", users: int | None = None) -> Checkins:
    """Of `folder`/interactions.parquet, the first `users` users or all; known is all before `judge`."""
    table = pq.read_table(folder / "interactions.parquet")
    user, item = table["user_id"].to_numpy(), table["item_id"].to_numpy()
    split = table["split"].cast(pa.string()).to_numpy(zero_copy_only=False)
    count = int(user.max()) + 1 if users is None else users
    kept, hidden = user < count, split == judge
    known = (split == "train") | ((split == "valid") & (judge == "test"))
    return Checkins(
        _lists(user[kept & known], item[kept & known], count),
        _lists(user[kept & hidden], item[kept & hidden], count),
        count,
        int(item.max()) + 1,
    )


def _lists(user: I64, item: I64, users: int) -> Lists:
    order = np.lexsort((item, user))
    starts = np.concatenate(([0], np.cumsum(np.bincount(user, minlength=users))))
    return Lists(item[order], starts)


def quality(
    recommended: NDArray[np.integer], hidden: Lists, depths: tuple[int, ...] = (10, 20, 50)
) -> dict[str, float]:
    """Recall at each depth and NDCG at the last, the mean over users with hidden items.

    `recommended` (users, at least the last depth), best first, -1 for none.
    """
    width = depths[-1]
    counts = np.diff(hidden.starts)
    owner = np.repeat(np.arange(len(counts)), counts)
    total = int(max(hidden.items.max(), recommended.max())) + 1
    wanted = np.sort(owner * total + hidden.items)
    keys = np.arange(len(recommended))[:, None] * total + recommended[:, :width]
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    hits = (wanted[place] == keys) & (recommended[:, :width] >= 0)
    some = counts > 0
    found = {f"recall_at_{k}": float((hits[some, :k].sum(1) / counts[some]).mean()) for k in depths}
    gains = 1 / np.log2(np.arange(2, width + 2))
    ideal = np.cumsum(gains)[np.minimum(counts[some], width) - 1]
    found[f"ndcg_at_{width}"] = float(((hits[some] * gains).sum(1) / ideal).mean())
    return found
