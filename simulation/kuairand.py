"""Reads the KuaiRand-Pure short-video log (Gao et al., CIKM 2022) from its folder of Parquet files.

Knows the data set's columns and what they mean; not how a log becomes requests and actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schema.records import I64, Profile
from simulation.errors import LogError
from simulation.log import EXPOSED, Log

NAME: Final = "kuairand"

# action kind -> the label column of events.parquet
LABELS: Final = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
    "profile_enter": "is_profile_enter",
}

# the user columns that are categories; the exact counts beside the ranges say little more than these
USER_CATEGORIES: Final = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
)

_EXPOSURES: Final = ("time_ms", "user_id", "video_id", "tab", "play_time_ms")
_VIDEOS: Final = ("video_id", "author_id", "tag", "video_type", "video_duration")
_SEQUENCES: Final = {EXPOSED: "watch_seq", "long_view": "long_watch_seq", "like": "like_seq"}


def read(folder: Path) -> Log:
    """The log in `folder`.

    Raises:
        LogError: the folder, a file or a column is missing, or a value is one that the log cannot have.
    """
    if not folder.is_dir():
        raise LogError(f"--path: {folder} is not a folder; legal is the folder that holds events.parquet")
    events = _table(folder / "events.parquet", (*_EXPOSURES, *LABELS.values()))
    columns = {name: _integers(folder, events, name) for name in events.column_names}
    order = np.argsort(columns["time_ms"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    start = int(columns["time_ms"][0])
    seen = set(np.unique(columns["user_id"]).tolist())
    return Log(
        name=NAME,
        times=columns["time_ms"],
        users=columns["user_id"],
        items=columns["video_id"],
        surfaces=columns["tab"],
        play_ms=columns["play_time_ms"],
        outcomes={kind: columns[label] == 1 for kind, label in LABELS.items()},
        user_profiles=_user_profiles(folder, start, seen),
        item_profiles=_item_profiles(folder, start),
        seeds=_seeds(folder, seen),
    )


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    if not path.is_file():
        raise LogError(f"{path}: there is no such file; legal is a Parquet file with {', '.join(columns)}")
    try:
        has = pq.read_schema(path).names
        missing = [c for c in columns if c not in has]
        if missing:
            raise LogError(
                f"{path}: no column {', '.join(missing)}; expected are {', '.join(columns)}, "
                f"found {', '.join(has)}"
            )
        return pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{path}: not a readable Parquet file: {error}") from error


def _integers(folder: Path, table: pa.Table, name: str) -> I64:
    """A column of events.parquet, checked: whole, not negative, and 0 or 1 where it is a label."""
    where = f"{folder / 'events.parquet'}: column {name}"
    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise LogError(f"{where}: {column.type} with {column.null_count} nulls; legal are integers, no nulls")
    values = column.to_numpy().astype(np.int64)
    if not len(values):
        raise LogError(f"{where}: no rows; legal is at least one exposure")
    largest = 1 if name in LABELS.values() else np.iinfo(np.int64).max
    bad = (values < 0) | (values > largest)
    if bad.any():
        row = int(np.argmax(bad))
        raise LogError(f"{where}: {values[row]} in row {row}; legal is 0 to {largest}")
    return values


def _user_profiles(folder: Path, start: int, seen: set[int]) -> dict[int, Profile]:
    table = _table(folder / "users.parquet", ("user_id", *USER_CATEGORIES))
    columns = [_categories(name, table[name].to_pylist()) for name in USER_CATEGORIES]
    profiles = {}
    for user, *values in zip(table["user_id"].to_pylist(), *columns, strict=True):
        if user in seen:
            fields = {"profile": tuple(v for v in values if v is not None)}
            profiles[user] = Profile("user", user, start, fields)
    return profiles


def _categories(name: str, values: Iterable[Any]) -> list[str | None]:
    """Each value as "name=value", None for a missing one. 3.0 and 3 are both "3"."""
    texts: dict[Any, str | None] = {None: None}
    for value in set(values) - {None}:
        missing = value != value  # noqa: PLR0124 - NaN
        texts[value] = (
            None if missing else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        )
    return [texts[value] for value in values]


def _item_profiles(folder: Path, start: int) -> dict[int, Profile]:
    table = _table(folder / "videos.parquet", _VIDEOS)
    profiles = {}
    for item, author, tags, kind, duration in zip(*(table[c].to_pylist() for c in _VIDEOS), strict=True):
        fields: dict[str, tuple[int | str, ...]] = {"tag": _tags(tags)}
        if author is not None:
            fields["author"] = (author,)
        if kind is not None:
            fields["type"] = (kind,)
        known = duration is not None and np.isfinite(duration)
        numbers = {"duration_seconds": duration / 1000} if known else {}
        profiles[item] = Profile("item", item, start, fields, numbers)
    return profiles


def _tags(text: str | None) -> tuple[int | str, ...]:
    """The parts of "26,67" as numbers, which need no hash; anything else as it is."""
    parts = [p.strip() for p in (text or "unknown").split(",")]
    return tuple(int(p) if p.isdecimal() else p for p in parts if p)


def _seeds(folder: Path, seen: set[int]) -> dict[str, dict[int, list[int]]]:
    table = _table(folder / "history.parquet", ("user_id", *_SEQUENCES.values()))
    users = table["user_id"].to_pylist()
    return {
        action: {
            user: items
            for user, items in zip(users, table[column].to_pylist(), strict=True)
            if user in seen and items
        }
        for action, column in _SEQUENCES.items()
    }
