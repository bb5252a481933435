"""The times of a traced sample on its way from an action to a feed, and which requests are traced. Pure.

Every role decides by the request id alone whether a request is traced, so no message has to say so. The
trainer sends the times through the shards to the replicas; the parameter server passes them on as a row of
integers and does not look at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from schema.records import I64

TRACED: Final = 64
"""One request in this many is traced."""

STAGES: Final = ("event", "completed", "joined", "trained", "published", "applied", "served")
"""The moments of a sample's way: its request's; Kafka had what completed its labels; its block was emitted;
its gradients were computed; every shard had them; a replica had them; a feed was ranked with them."""


class Traced(NamedTuple):
    """A sample's times, in Unix ms: its request's event, its labels' completion, its joining, its training.

    `trace` is that of its request, 0 where the request is not traced.
    """

    event: int
    completed: int
    joined: int
    trained: int
    trace: int = 0


def trace_of(request_id: str) -> int:
    """The trace of a request, 63 bits of a hash of its id; 0 for the many that are not traced."""
    digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
    trace = int.from_bytes(digest, "little") >> 1
    return trace if trace % TRACED == 0 else 0


def trace_name(trace: int) -> str:
    """A trace as reports show it."""
    return f"{trace:016x}"


def pack(traced: Iterable[Traced]) -> list[int]:
    """The times of all, one after the other."""
    return [time for sample in traced for time in sample]


def unpack(times: I64) -> I64:
    """What `pack` was given, shape (n, 5); nothing where these are no such times."""
    width = len(Traced._fields)
    if len(times) % width:
        return np.empty((0, width), np.int64)
    return times.reshape(-1, width)


def ways(*told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What several roles told of traced samples, put together: one for each sample, the earliest event first.

    A time that several tell of is the first: a sample is served once any replica serves it.

    Args:
        told: the lists "traces" of the roles' reports: a trace, and times in Unix ms by stage.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for way in chain.from_iterable(told):
        mine = found.setdefault((way["trace"], way["completed"]), {})
        mine.update({name: min(value, mine.get(name, value)) for name, value in way.items()})
    ordered = sorted(found.values(), key=lambda way: (way["event"], way["completed"]))
    return [{name: way[name] for name in ("trace", *STAGES) if name in way} for way in ordered]
