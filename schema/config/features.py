"""Features, and the labels that are predicted from them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.config.values import Name, Section


class SlotConfig(Section, frozen=True, kw_only=True):
    """One categorical feature. See `schema.features` for what `source` may name.

    `ids_of` names another slot whose ids (and so whose embedding rows) these values share, as a history of
    items shares the item's. Several values of a row are pooled; "attention" weighs a history by its likeness
    to the item that is scored, which `ids_of` has to name.
    """

    name: Name
    slot: Annotated[int, Meta(ge=1, le=65535)]
    source: Annotated[str, Meta(pattern=r"^(user|item|context|history)\.[A-Za-z0-9_]+$")]
    pool: Literal["mean", "sum", "attention"] = "mean"
    ids_of: str | None = None
    table: Name = "embedding"


class DenseConfig(Section, frozen=True, kw_only=True):
    """One numeric feature of a user or an item; a missing value is 0 (after the transform)."""

    name: Name
    source: Annotated[str, Meta(pattern=r"^(user|item)\.[A-Za-z0-9_]+$")]
    transform: Literal["none", "log1p"] = "none"


class HistoryConfig(Section, frozen=True, kw_only=True):
    """A list of the items a user last gave one of `actions`, newest last. An exposure is action "exposed"."""

    name: Name
    actions: tuple[Name, ...]
    length: Annotated[int, Meta(ge=1, le=1000)] = 50


class FeaturesConfig(Section, frozen=True, kw_only=True):
    """Which features exist, and how a time becomes an hour (`timezone_hours` east of UTC)."""

    slots: Annotated[tuple[SlotConfig, ...], Meta(min_length=1)]
    dense: tuple[DenseConfig, ...] = ()
    histories: tuple[HistoryConfig, ...] = ()
    timezone_hours: Annotated[float, Meta(ge=-12, le=14)] = 0.0


class TaskConfig(Section, frozen=True, kw_only=True):
    """One label: positive if any of `actions` was seen in the window. `weight` is its part in the score.

    `prior`: the rate of positives that an untrained model predicts.
    """

    name: Name
    actions: Annotated[tuple[Name, ...], Meta(min_length=1)]
    weight: float = 1.0
    prior: Annotated[float, Meta(gt=0, lt=1)] = 0.5
