"""The times that a traced sample carries from the trainer, through the shards, to the replicas. Pure.

The parameter server passes them on as a row of integers and does not look at them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from schema.records import I64


class Traced(NamedTuple):
    """A sample's times, in Unix ms: its request's event, its labels' completion, its training."""

    event: int
    completed: int
    trained: int


def pack(traced: Iterable[Traced]) -> list[int]:
    """The times of all, one after the other."""
    return [time for sample in traced for time in sample]


def unpack(times: I64) -> I64:
    """What `pack` was given, shape (n, 3); nothing where these are no such times."""
    width = len(Traced._fields)
    if len(times) % width:
        return np.empty((0, width), np.int64)
    return times.reshape(-1, width)
