"""Logs for tests: a small random one in the form of KuaiRand, in memory and as its Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schema.config import Config
from schema.config_file import load_config
from simulation.kuairand import LABELS, USER_CATEGORIES
from simulation.log import Log

REPOSITORY = Path(__file__).parents[2]
START_MS = 1_650_812_741_000
USERS = 6
ITEMS = 12


def replay_config(**overrides: Any) -> Config:
    """The replay's own configuration; an override's key has "__" for its dots."""
    path = REPOSITORY / "configs" / "replay.yaml"
    return load_config(path, {key.replace("__", "."): value for key, value in overrides.items()})


def event_columns(rows: int = 400, seed: int = 7) -> dict[str, np.ndarray]:
    """Random exposures: few users, tabs and items, so that runs, repeats and equal times are common."""
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0, 0, 500, 5_000, 20_000, 100_000], rows)
    columns = {
        "time_ms": START_MS + np.cumsum(gaps),
        "user_id": rng.integers(0, USERS, rows),
        "video_id": rng.integers(0, ITEMS, rows),
        "tab": rng.integers(0, 2, rows).astype(np.int8),
        "play_time_ms": rng.integers(0, 700_000, rows),
    }
    for label in LABELS.values():
        columns[label] = rng.integers(0, 2, rows).astype(np.int8)
    return columns


def write(folder: Path, events: dict[str, Any] | None = None) -> Path:
    """Writes the four files; user USERS - 1 has no profile and no history, video 3 hardly any metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    users = range(USERS - 1)
    categories = {name: ["a", "b", None, "d", "e"] for name in USER_CATEGORIES}
    categories["onehot_feat4"] = [1.0, None, float("nan"), 3.0, 4.0]
    categories["is_live_streamer"] = [1, -124, 1, -124, 1]
    videos = {
        "video_id": list(range(ITEMS)),
        "author_id": [i + 1000 if i != 3 else None for i in range(ITEMS)],
        "tag": ["26,67", "39", "unknown", None] + ["5"] * (ITEMS - 4),
        "video_type": ["NORMAL"] * 3 + [None] + ["AD"] * (ITEMS - 4),
        "video_duration": [1500.0, 2000.0, float("nan"), None] + [9000.0] * (ITEMS - 4),
    }
    history = {
        "user_id": list(users),
        "watch_seq": [[100 + i for i in range(10 * u)] for u in users],
        "long_watch_seq": [[101] if u else [] for u in users],
        "like_seq": [[102, 103] if u == 2 else [] for u in users],
    }
    pq.write_table(pa.table(event_columns() if events is None else events), folder / "events.parquet")
    pq.write_table(pa.table({"user_id": list(users), **categories}), folder / "users.parquet")
    pq.write_table(pa.table(videos), folder / "videos.parquet")
    pq.write_table(pa.table(history), folder / "history.parquet")
    return folder


def log_of(
    *,
    times: list[int],
    users: list[int] | None = None,
    items: list[int] | None = None,
    surfaces: list[int] | None = None,
    play_ms: list[int] | None = None,
    outcomes: dict[str, list[int]] | None = None,
    seeds: dict[str, dict[int, list[int]]] | None = None,
) -> Log:
    """A log of the given columns; what is left out is user 0, tab 0, a new item each time, no play, no action."""
    n = len(times)
    return Log(
        name="test",
        times=np.array(times, np.int64),
        users=np.array(users or [0] * n, np.int64),
        items=np.array(items or range(n), np.int64),
        surfaces=np.array(surfaces or [0] * n, np.int64),
        play_ms=np.array(play_ms or [0] * n, np.int64),
        outcomes={kind: np.array(flags, np.bool_) for kind, flags in (outcomes or {}).items()},
        user_profiles={},
        item_profiles={},
        seeds=seeds or {},
    )
