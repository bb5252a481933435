"""Feature columns, as the shipped feature configuration asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schema.config_file import load_config
from schema.features import FeatureBuilder, Moment
from schema.ids import feature_id
from schema.records import IdColumn, Profile

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "local.yaml").features
SLOTS = {s.name: s.slot for s in CONFIG.slots}
USER = Profile("user", 3, 0, {"profile": ("age=2", "city=x")})
ITEMS = [
    Profile(
        "item", 10, 0, {"author": (5,), "tag": (1, 2), "type": ("short",)}, {"duration_seconds": np.e - 1}
    ),
    Profile("item", 11, 0, {"author": (6,)}),
]
# 1 May 2022, 01:30 in China, which is 17:30 of the day before in UTC.
MOMENT = Moment(1651339800000, 4, {"watched": list(range(100, 180)), "liked": [7]})


@pytest.fixture
def columns() -> dict[str, IdColumn]:
    builder = FeatureBuilder(CONFIG)
    items = [builder.item(p.id, p) for p in ITEMS]
    features = builder.build(builder.user(3, USER), MOMENT, items)
    assert features.fits(2)
    assert np.frombuffer(features.item_dense, "<f4").tolist() == pytest.approx([1.0, 0.0])
    by_slot = {number: name for name, number in SLOTS.items()}
    return {by_slot[c.slot]: c for c in (*features.context, *features.items)}


def test_every_configured_slot_has_a_column(columns: dict[str, IdColumn]) -> None:
    assert columns.keys() == SLOTS.keys()


@pytest.mark.parametrize(
    ("slot", "values"),
    [
        ("user", [3]),
        ("profile", ["age=2", "city=x"]),
        ("tab", [4]),
        ("hour", [1]),
        ("video", [10, 11]),
        ("author", [5, 6]),
        ("tag", [1, 2]),
        ("liked", [7]),
        ("long_viewed", []),
    ],
)
def test_the_ids_are_those_of_slot_and_value(
    columns: dict[str, IdColumn], slot: str, values: list[int | str]
) -> None:
    assert columns[slot].values().tolist() == [feature_id(SLOTS[slot], v) for v in values]


def test_a_missing_field_gives_its_row_no_id(columns: dict[str, IdColumn]) -> None:
    assert columns["tag"].row_lengths(2).tolist() == [2, 0]


def test_a_history_keeps_its_newest(columns: dict[str, IdColumn]) -> None:
    watched = columns["watched"].values() & np.uint64(2**48 - 1)
    assert watched.tolist() == list(range(130, 180))
