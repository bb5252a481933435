"""The ranker and retrieval."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.config.values import Count, Name, Positive, PositiveFloat, PositiveSeconds, Section


class PositionConfig(Section, frozen=True, kw_only=True):
    """The shallow tower of position and surface: what an impression gains by where it was shown.

    Positions from `positions` on, and surfaces from `surfaces` on, each share one last row. In training a
    row's position is taken away with probability `dropout`; serving knows none.
    """

    positions: Positive = 32
    surfaces: Positive = 16
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1


class ModelConfig(Section, frozen=True, kw_only=True):
    """The MMoE ranker: sizes of its expert, gate-to-head and head layers.

    `engaged` names the task that the others are conditional on: they train on engaged rows only and serve the
    product. Unset, all heads are independent. `gate_dropout`: how likely a gate loses an expert in training.
    """

    experts: Positive = 4
    expert_hidden: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (64, 32)
    head_hidden: tuple[Positive, ...] = (16,)
    gate_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    position: PositionConfig | None = None
    engaged: Name | None = None


class RetrievalConfig(Section, frozen=True, kw_only=True):
    """Deep Retrieval: candidates learned in the stream. Without it they are the popular and recent items.

    Structure: `depth` layers of `nodes` nodes, `paths` paths an item, `penalty` (alpha) on long ones. A user
    and an item belong together where the task `positives` (the first one if unset) has label 1. An item's
    vector and bias are the sum of the rows of its feature ids in `table`, which is retrieval's own: a vector
    is one float narrower than a row. A user's vector pools those of the items of `history`; `user_id` adds
    one of the user's own. Beside a batch's positives, the softmax is over `negatives` items drawn evenly.
    `beam` paths are kept a layer, and at most `rerank` of their items reranked.
    `scored_paths` an item are remembered, of the `score_beam` paths of each of its users: few would leave the
    penalty no room to spread items. `score_decay` is what a score is worth one pair later; an M-step of
    `sweeps` passes follows every `placement_rows` pairs. An item that no trained row has shown for
    `item_expiry_seconds` of event time leaves the structure until one does; null: none ever does.
    """

    history: Name
    positives: Name | None = None
    table: Name = "retrieval"
    negatives: Positive = 64
    nodes: Annotated[int, Meta(ge=2, le=65536)] = 100
    depth: Annotated[int, Meta(ge=1, le=6)] = 2
    paths: Annotated[int, Meta(ge=1, le=16)] = 3
    beam: Annotated[int, Meta(ge=1, le=10_000)] = 25
    rerank: Positive = 1000
    hidden: Positive = 64
    pool: Literal["mean", "sqrtn", "attention"] = "mean"
    user_id: bool = False
    penalty: Annotated[float, Meta(ge=0)] = 1e-4
    scored_paths: Annotated[int, Meta(ge=1, le=1000)] = 60
    score_beam: Annotated[int, Meta(ge=1, le=10_000)] = 100
    score_decay: Annotated[float, Meta(gt=0, le=1)] = 0.999
    sweeps: Positive = 3
    placement_rows: Positive = 100_000
    item_expiry_seconds: PositiveSeconds | None = 2_592_000.0
    learning_rate: PositiveFloat = 0.002
    seed: Count = 0
