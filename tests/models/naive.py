"""Features for the models' tests, and slow, obvious versions of what `models` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.mmoe import MMoE
from schema.config import DenseConfig, FeaturesConfig, SlotConfig
from schema.records import Features, IdColumn, column

F64 = NDArray[np.float64]

FEATURES = FeaturesConfig(
    slots=(
        SlotConfig(name="user", slot=1, source="user.id"),
        SlotConfig(name="video", slot=2, source="item.id", table="other"),
        SlotConfig(name="profile", slot=3, source="user.profile", pool="sum"),
        SlotConfig(name="tag", slot=4, source="item.tag"),
        SlotConfig(name="words", slot=5, source="item.words", pool="sum", table="other"),
    ),
    dense=(DenseConfig(name="age", source="user.age"), DenseConfig(name="length", source="item.length")),
)
CONTEXT = [s for s in FEATURES.slots if s.source.startswith("user.")]
ITEMS = [s for s in FEATURES.slots if s.source.startswith("item.")]


class Request:
    """One request as plain lists: ids by slot of the request, and of each row."""

    def __init__(self, rng: np.random.Generator, rows: int) -> None:
        self.rows = rows
        self.context = {s.slot: _ids(rng, s.pool == "sum") for s in CONTEXT}
        self.items = {s.slot: [_ids(rng, s.slot != 2) for _ in range(rows)] for s in ITEMS}
        self.age = float(np.float32(rng.normal()))
        self.lengths = [float(np.float32(v)) for v in rng.normal(size=rows)]

    def features(self, order: Sequence[int] = (), without: int | None = None) -> Features:
        """As a record, its columns in `order` (their own by default), one of them left out."""
        context = [_column(slot, [ids]) for slot, ids in self.context.items() if slot != without]
        items = [_column(slot, rows) for slot, rows in self.items.items() if slot != without]
        items = [items[i] for i in order] if order else items
        return Features(tuple(context), tuple(items), column([self.age], "<f4"), column(self.lengths, "<f4"))


def _ids(rng: np.random.Generator, several: bool) -> list[int]:  # noqa: FBT001
    return rng.integers(0, 30, rng.integers(0, 4) if several else 1).tolist()


def _column(slot: int, rows: list[list[int]]) -> IdColumn:
    flat = column([i for row in rows for i in row], "<u8")
    if all(len(row) == 1 for row in rows):
        return IdColumn(slot, flat)
    return IdColumn(slot, flat, column([len(row) for row in rows], "<u2"))


def inputs(requests: Sequence[Request], vectors: Mapping[str, Mapping[int, F64]], dim: int) -> F64:
    """The network's input, row by row: context slots, context dense, item slots, item dense."""

    def pooled(slot: SlotConfig, ids: list[int]) -> F64:
        if not ids:
            return np.zeros(dim)
        rows = np.stack([vectors[slot.table][i] for i in ids])
        return rows.sum(axis=0) if slot.pool == "sum" else rows.mean(axis=0)

    out = []
    for request in requests:
        for row in range(request.rows):
            parts = [pooled(s, request.context[s.slot]) for s in CONTEXT]
            parts += [np.array([request.age])]
            parts += [pooled(s, request.items[s.slot][row]) for s in ITEMS]
            out.append(np.concatenate([*parts, np.array([request.lengths[row]])]))
    return np.stack(out)


def mmoe(model: MMoE, x: F64) -> F64:
    """y_k = head_k(sum_i softmax(W_k x)_i expert_i(x)) + shortcut_k x, from the model's own parameters."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def dense(prefix: str, v: F64) -> F64:
        bias = weights.get(f"{prefix}.bias", 0.0)
        return v @ weights[f"{prefix}.weight"].T + bias

    def stack(prefix: str, v: F64, layers: int) -> F64:
        for layer in range(layers):
            v = np.maximum(dense(f"{prefix}.{2 * layer}", v), 0)
        return v

    experts = [stack(f"mixture.experts.{i}", x, 2) for i in range(len(model.mixture.experts))]
    columns = []
    for task in range(len(model.mixture.heads)):
        scores = dense(f"mixture.gates.{task}", x)
        gate = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        mixed = sum(gate[:, [i]] * expert for i, expert in enumerate(experts))
        columns.append(dense(f"mixture.heads.{task}.1", stack(f"mixture.heads.{task}.0", mixed, 1))[:, 0])
    return np.stack(columns, axis=1) + dense("shortcut", x)
