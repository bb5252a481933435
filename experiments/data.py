"""Recorded logs as rows in time order: ids by slot, and labels by task. Knows no model."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schema.records import F32, I64

_HOUR_MS: Final = 3_600_000
_ZONE_MS: Final = 8 * _HOUR_MS
_LIKED_FROM: Final = 3.5


class DataError(ValueError):
    """A folder does not hold the log that it should."""


@dataclass(frozen=True, slots=True)
class Stream:
    """n rows in time order: `times` (n,) in Unix milliseconds; `ids` i64 (n,) by slot; labels (n, T).

    `days` (n,), not falling, are what shards keep snapshots by.
    """

    name: str
    tasks: tuple[str, ...]
    times: I64
    days: I64
    ids: Mapping[str, I64]
    labels: F32

    def __len__(self) -> int:
        return len(self.times)

    def head(self, rows: int) -> Stream:
        """The first `rows` rows."""
        ids = {slot: values[:rows] for slot, values in self.ids.items()}
        return replace(
            self, times=self.times[:rows], days=self.days[:rows], ids=ids, labels=self.labels[:rows]
        )

    def batches(self, rows: int) -> Iterator[slice]:
        """The rows in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))


def kuairand(folder: Path) -> Stream:
    """KuaiRand-Pure (Gao et al., CIKM 2022): exposures, with whether they were clicked and viewed long.

    Raises:
        DataError: the folder does not hold events.parquet with its columns.
    """
    names = ["time_ms", "user_id", "video_id", "author_id", "tag", "tab", "is_click", "long_view"]
    try:
        table = pq.read_table(folder / "events.parquet", columns=names)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: {error}; legal is the folder of KuaiRand-Pure's events.parquet"
        ) from error
    tags = np.unique(table["tag"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    columns: dict[str, NDArray[Any]] = {n: table[n].to_numpy() for n in names if n != "tag"}
    hours = (columns["time_ms"] + _ZONE_MS) // _HOUR_MS % 24
    ids = {
        "user": columns["user_id"],
        "item": columns["video_id"],
        "author": columns["author_id"],
        "tag": tags,
        "tab": columns["tab"],
        "hour": hours,
    }
    labels = np.stack([columns["is_click"], columns["long_view"]], axis=1)
    stream = _sorted("kuairand", ("click", "long_view"), columns["time_ms"], ids, labels)
    return replace(stream, days=(stream.times + _ZONE_MS) // (24 * _HOUR_MS))


def movielens(folder: Path) -> Stream:
    """MovieLens: ratings, liked from 3.5 stars on, as arXiv 2209.07663 has it.

    Its ratings are spread over decades, a dozen a day; a tenth of them is a "day".

    Raises:
        DataError: the folder does not hold ratings.csv with its columns.
    """
    try:
        with (folder / "ratings.csv").open(newline="") as file:
            rows = [
                (int(r["userId"]), int(r["movieId"]), float(r["rating"]), int(r["timestamp"]))
                for r in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{folder}: {error!r}; legal is the folder of MovieLens' ratings.csv") from error
    users, items, ratings, seconds = (np.array(column) for column in zip(*rows, strict=True))
    ids = {"user": users, "item": items}
    return _sorted("movielens", ("liked",), seconds * 1000, ids, (ratings >= _LIKED_FROM)[:, None])


def _sorted(
    name: str, tasks: tuple[str, ...], times: I64, ids: Mapping[str, I64], labels: NDArray[Any]
) -> Stream:
    order = np.argsort(times, kind="stable")
    by_slot = {slot: values[order].astype(np.int64) for slot, values in ids.items()}
    tenths = np.arange(len(times)) * 10 // len(times)
    return Stream(name, tasks, times[order], tenths, by_slot, labels[order].astype(np.float32))


LOGS: Final = {"kuairand": ("kuairand", kuairand), "movielens": ("movielens_small", movielens)}
"""By name: the folder within the data folder, and what reads it."""
