"""The three claims of Monolith (Liu et al., arXiv 2209.07663), each as arms that are scored over one stream.

An arm's predictions are made before their rows are learned from. The first WARM_UP of the rows do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from experiments.data import Stream
from experiments.world import Copy, World, image_of
from models.metrics import TaskMetrics
from parameter_server.image import ShardImage
from schema.records import F32, I64, U64

WARM_UP: Final = 0.2
BATCH_ROWS: Final = 128
HOUR_MS: Final = 3_600_000
INTERVALS: Final = {"5 h": 5 * HOUR_MS, "1 h": HOUR_MS, "30 min": HOUR_MS // 2}
PAPER_RATES: Final = {"user": 0.0773, "item": 0.0286}
COLLISIONS: Final[Mapping[str, Mapping[str, float]]] = {
    "none": {},
    "7.73 % of users, 2.86 % of items": PAPER_RATES,
    "25 % of both": dict.fromkeys(PAPER_RATES, 0.25),
    "50 % of both": dict.fromkeys(PAPER_RATES, 0.5),
}
SHARDS: Final = 10
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

Aucs = dict[str, list[float]]
"""AUC by task, by arm, in the order that the claim expects them to rise."""
Claim = Callable[[Stream, int], Aucs]


class _Scored:
    """The predictions of one arm."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._first = int(WARM_UP * len(stream))
        self._metrics = TaskMetrics(len(stream.tasks))

    def add(self, rows: slice, predictions: F32) -> None:
        """Count `predictions` (n, T) of `rows`, once warmed up."""
        if rows.start >= self._first:
            self._metrics.update(predictions, self._stream.labels[rows], np.ones_like(predictions))

    def aucs(self) -> list[float]:
        """By task."""
        return [float(auc) for auc in self._metrics.auc()]


def sync_interval(stream: Stream, seed: int) -> Aucs:
    """Copies that are synchronised at several intervals of event time, and the trainer's own parameters."""
    world = World(stream, seed=seed)
    copies = {name: Copy(world) for name in INTERVALS}
    as_of = dict.fromkeys(INTERVALS, int(stream.times[0]))
    scored = {name: _Scored(stream) for name in (*INTERVALS, "live")}
    for rows in stream.batches(BATCH_ROWS):
        prepared = world.prepared(rows)
        for name, copy in copies.items():
            now, interval = int(stream.times[rows.start]), INTERVALS[name]
            if now // interval > as_of[name] // interval:
                copy.sync()
                as_of[name] = now
            scored[name].add(rows, copy.score(prepared))
        scored["live"].add(rows, world.train(rows))
    return {name: arm.aucs() for name, arm in scored.items()}


def collisions(stream: Stream, seed: int) -> Aucs:
    """Ids as they are, and hashed down to tables in which a share of them collides."""
    arms = {
        name: _trained(World(hashed(stream, rates, seed), seed=seed)) for name, rates in COLLISIONS.items()
    }
    return dict(reversed(arms.items()))


def hashed(stream: Stream, rates: Mapping[str, float], seed: int) -> Stream:
    """`stream` with the ids of each slot of `rates` hashed to as many values as lose that share of them."""
    ids = dict(stream.ids)
    for slot, rate in rates.items():
        values = table_size(len(np.unique(ids[slot])), rate)
        ids[slot] = (_mixed(ids[slot].astype(np.uint64), seed) % np.uint64(values)).astype(np.int64)
    return replace(stream, ids=ids)


def table_size(count: int, rate: float) -> int:
    """How many values `count` ids are hashed to, for the distinct ones to be fewer by `rate` on average.

    Of m values m (1 - (1 - 1/m)^n) are hit by n ids on average, which rises with m.
    """
    low, high = 1, count * max(2, round(1 / rate))
    while low < high:
        middle = (low + high) // 2
        hit = -middle * np.expm1(count * np.log1p(-1 / middle)) if middle > 1 else 1.0
        low, high = (low, middle) if hit >= (1 - rate) * count else (middle + 1, high)
    return low


def _mixed(values: U64, seed: int) -> U64:
    """A hash of 64 bits (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    found: U64 = mixed ^ (mixed >> np.uint64(31))
    return found


def shard_loss(stream: Stream, seed: int) -> Aucs:
    """Shards that fall back by a day at the end of each day, one or several of SHARDS in turn."""
    arms = {f"{lost} of {SHARDS} shards a day": _falling_back(stream, lost, seed) for lost in (3, 1)}
    return arms | {"none": _trained(World(stream, SHARDS, seed))}


def _falling_back(stream: Stream, lost: int, seed: int) -> list[float]:
    world = World(stream, SHARDS, seed)
    snapshots = _Snapshots(world)
    return _trained(world, lambda day: snapshots.turn(day * lost, lost))


class _Snapshots:
    """What each shard falls back to: itself a day ago."""

    def __init__(self, world: World) -> None:
        self._shards = world.tables.shards
        self._images: list[ShardImage] = [image_of(shard) for shard in self._shards]

    def turn(self, first: int, lost: int) -> None:
        """A day has ended: `lost` shards from number `first` on fall back, and all take a snapshot."""
        for number in range(first, first + lost):
            at = number % len(self._shards)
            self._shards[at].restore(self._images[at])
        self._images = [image_of(shard) for shard in self._shards]


def _trained(world: World, turn: Callable[[int], None] = lambda _: None) -> list[float]:
    """The AUC by task of a world that learns its stream; `turn` is told each new day's number."""
    stream = world.stream
    scored = _Scored(stream)
    for day, rows in _by_day(stream.days):
        turn(day)
        for part in _cut(rows):
            scored.add(part, world.train(part))
    return scored.aucs()


def _by_day(days: I64) -> Iterator[tuple[int, slice]]:
    """Number and rows of each day."""
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1)).tolist()
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(days)], strict=True)):
        yield number, slice(start, stop)


def _cut(rows: slice) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, BATCH_ROWS):
        yield slice(start, min(start + BATCH_ROWS, rows.stop))


CLAIMS: Final[dict[str, Claim]] = {
    "sync-interval": sync_interval,
    "collisions": collisions,
    "shard-loss": shard_loss,
}
