"""When the actions of a log happened. The log has no action times, so a rule gives them. Pure.

An action follows its exposure by a share of the play time, and by a moment at least:

    click 1 s | like half the play, from 2 s | follow 6/10, from 3 s | profile_enter 7/10, from 3.5 s |
    comment 8/10, from 4 s | forward 9/10, from 5 s | long_view and hate at the end of the play, from 2 s

and is brought forward, where it has to be, to CAP_MS before the attribution window of its request ends, so
that every label arrives inside it. (In KuaiRand with a window of 1,800 s the latest comes after 1,326 s at
most, so nothing is brought forward.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from schema.errors import ConfigError
from schema.records import F32, I64
from simulation.log import Log
from simulation.requests import LONGEST_MS, Requests

CAP_MS: Final = 1_000
LEAST_WINDOW_MS: Final = LONGEST_MS + 60_000
"""The shortest window in which a request's last exposure has a minute for its actions."""


class _Timing(NamedTuple):
    share: float
    least_ms: int


_TIMINGS: Final = {
    "click": _Timing(0.0, 1_000),
    "like": _Timing(0.5, 2_000),
    "follow": _Timing(0.6, 3_000),
    "profile_enter": _Timing(0.7, 3_500),
    "comment": _Timing(0.8, 4_000),
    "forward": _Timing(0.9, 5_000),
    "long_view": _Timing(1.0, 2_000),
    "hate": _Timing(1.0, 2_000),
}
KINDS: Final = tuple(_TIMINGS)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """a actions in the order of their times (then of their exposures and of KINDS), all of shape (a,).

    Attributes:
        rows: the exposure row that each followed.
        kinds: its index in KINDS.
        times: Unix milliseconds.
        values: seconds watched for a long view, else 1.
    """

    rows: I64
    kinds: I64
    times: I64
    values: F32


def outcomes(log: Log, requests: Requests, window_ms: int) -> Outcomes:
    """Every action of `log`, each before its request's window of `window_ms` closes.

    Raises:
        ConfigError: the window is too short to hold a request and its actions.
    """
    if window_ms < LEAST_WINDOW_MS:
        raise ConfigError(
            f"streaming.window_seconds: {window_ms / 1000:g}; legal for a replay is at least "
            f"{LEAST_WINDOW_MS // 1000}, the longest request and a minute for its actions"
        )
    request_times = log.times[requests.firsts][requests.of_row]
    found = [_of_kind(log, index, request_times + window_ms - CAP_MS) for index in range(len(KINDS))]
    rows, kinds, times = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((kinds, rows, times))
    rows, kinds, times = rows[order], kinds[order], times[order]
    watched = np.where(kinds == KINDS.index("long_view"), log.play_ms[rows] / 1000, 1.0)
    return Outcomes(rows, kinds, times, watched.astype(np.float32))


def _of_kind(log: Log, index: int, latest: I64) -> tuple[I64, I64, I64]:
    """The rows, the kind and the times of one kind's actions."""
    kind = KINDS[index]
    timing = _TIMINGS[kind]
    happened = log.outcomes.get(kind)
    rows = np.flatnonzero(happened) if happened is not None else np.zeros(0, np.int64)
    delay = np.maximum(log.play_ms[rows] * timing.share, timing.least_ms).astype(np.int64)
    return rows, np.full(len(rows), index), np.minimum(log.times[rows] + delay, latest[rows])
