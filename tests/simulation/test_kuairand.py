"""Reading KuaiRand: what its columns become, and what a wrong folder is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulation.errors import LogError
from simulation.kuairand import LABELS, read
from simulation.log import EXPOSED
from tests.simulation.logs import ITEMS, USERS, event_columns, write


def test_columns_become_the_log(tmp_path: Path) -> None:
    columns = event_columns()
    log = read(write(tmp_path))
    assert len(log) == len(columns["time_ms"])
    np.testing.assert_array_equal(log.items, columns["video_id"])
    np.testing.assert_array_equal(log.surfaces, columns["tab"])
    for kind, label in LABELS.items():
        np.testing.assert_array_equal(log.outcomes[kind], columns[label] == 1)


def test_an_unsorted_log_is_put_in_time_order(tmp_path: Path) -> None:
    columns = event_columns()
    order = np.random.default_rng(0).permutation(len(columns["time_ms"]))
    log = read(write(tmp_path, {name: values[order] for name, values in columns.items()}))
    assert (np.diff(log.times) >= 0).all()
    shuffled = columns["video_id"][order][np.argsort(columns["time_ms"][order], kind="stable")]
    np.testing.assert_array_equal(log.items, shuffled)


def test_user_profiles_name_each_category_and_skip_missing_ones(tmp_path: Path) -> None:
    profiles = read(write(tmp_path)).user_profiles
    assert set(profiles) == set(range(USERS - 1))
    assert "is_live_streamer=-124" in profiles[1].fields["profile"]
    assert "onehot_feat4=1" in profiles[0].fields["profile"]
    for without in (1, 2):
        assert not any(v.startswith("onehot_feat4=") for v in profiles[without].fields["profile"])
    assert profiles[2].fields["profile"] == ("is_live_streamer=1",)
    assert profiles[0].kind == "user"


def test_item_profiles_hold_author_tags_type_and_duration(tmp_path: Path) -> None:
    profiles = read(write(tmp_path)).item_profiles
    assert set(profiles) == set(range(ITEMS))
    assert profiles[0].fields == {"tag": (26, 67), "author": (1000,), "type": ("NORMAL",)}
    assert profiles[0].numbers == {"duration_seconds": 1.5}
    assert profiles[2].fields["tag"] == ("unknown",)
    assert profiles[2].numbers == {}
    assert profiles[3].fields == {"tag": ("unknown",)}
    assert profiles[3].numbers == {}


def test_histories_seed_each_action(tmp_path: Path) -> None:
    seeds = read(write(tmp_path)).seeds
    assert seeds[EXPOSED][1] == list(range(100, 110))
    assert seeds["like"] == {2: [102, 103]}
    assert 0 not in seeds["long_view"]


def _with(name: str, value: object) -> dict[str, object]:
    columns: dict[str, object] = dict(event_columns(5))
    columns[name] = value
    return columns


BAD_EVENTS = {
    "a label that is neither 0 nor 1": (
        _with("is_like", [0, 1, 2, 0, 1]),
        r"is_like: 2 in row 2; legal is 0 to 1",
    ),
    "a negative user": (_with("user_id", [0, -3, 0, 0, 0]), r"user_id: -3 in row 1; legal"),
    "a null": (_with("tab", [0, None, 0, 0, 0]), r"tab: int64 with 1 nulls"),
    "text for a number": (_with("play_time_ms", ["1"] * 5), r"play_time_ms: string"),
    "no rows": ({name: values[:0] for name, values in event_columns(5).items()}, r"no rows"),
    "a missing column": (
        {name: values for name, values in event_columns(5).items() if name != "is_click"},
        r"no column is_click; expected are time_ms.*found",
    ),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_wrong_events_are_refused_by_name(case: str, tmp_path: Path) -> None:
    events, message = BAD_EVENTS[case]
    with pytest.raises(LogError, match=message):
        read(write(tmp_path, events))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere is not a folder; legal is the folder that holds events"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["events", "users", "videos", "history"])
def test_a_missing_file_is_named_with_its_columns(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(LogError, match=rf"{name}\.parquet: there is no such file.*_id"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["users", "videos", "history"])
def test_a_missing_column_of_another_file_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    pq.write_table(pa.table({"other": [1]}), tmp_path / f"{name}.parquet")
    with pytest.raises(LogError, match=rf"{name}\.parquet: no column .*found other"):
        read(tmp_path)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "events.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(LogError, match=r"events\.parquet: not a readable Parquet file"):
        read(tmp_path)
