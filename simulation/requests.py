"""The request rule: which exposures of a log were one feed request.

Consecutive exposures of one user on one surface, each within GAP_MS of the one before it, at most
MAX_IMPRESSIONS of them and no item twice, are one request; its time is its first exposure's. Pure.

GAP_MS is 60 s. KuaiRand keeps the exposures of some videos only, so that two neighbours in the log are
seldom neighbours on the screen: of 127,648 neighbours of one user and tab, 1,250 have the same time (a page
shown at once) and 2,680 lie within 60 s. Between 10 and 60 s, half have less than 31 s between them
that the first one's play does not account for, about one other video; between 1 and 5 minutes that
is 157 s, and other requests must have come between. And a page of 10 at 60 s each spans at most 9 minutes,
which with the longest play of the log (786 s) stays well inside a window of 30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from schema.records import I64
from simulation.log import Bool, Log

GAP_MS: Final = 60_000
MAX_IMPRESSIONS: Final = 10
LONGEST_MS: Final = (MAX_IMPRESSIONS - 1) * GAP_MS
"""The most time from a request's first exposure to its last."""


@dataclass(frozen=True, slots=True)
class Requests:
    """m requests in the order of their first exposures, as ranges of exposure rows.

    Attributes:
        rows: every row of the log once, those of a request together and in time order, shape (n,).
        starts: where in `rows` each request begins, and n at the end, shape (m + 1,).
        of_row: the request of each row of the log, shape (n,).
    """

    rows: I64
    starts: I64
    of_row: I64

    @property
    def firsts(self) -> I64:
        """The row of each request's first exposure, shape (m,)."""
        return self.rows[self.starts[:-1]]


def group(log: Log) -> Requests:
    """The requests of `log` by the rule above."""
    order = np.lexsort((np.arange(len(log)), log.times, log.surfaces, log.users))
    opens = _opens(log, order)
    first = order[np.flatnonzero(opens)]
    number = np.cumsum(opens) - 1
    # the log is in time order, so the rank of a request's first row is its place among the requests
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    of_row = np.empty(len(log), np.int64)
    of_row[order] = rank[number]
    rows = np.argsort(of_row, kind="stable")
    starts = np.searchsorted(of_row[rows], np.arange(len(first) + 1))
    return Requests(rows, starts, of_row)


def _opens(log: Log, order: I64) -> Bool:
    """Which places of `order` (by user, surface, time) open a request, shape (n,)."""
    users, surfaces, times = log.users[order], log.surfaces[order], log.times[order]
    opens = np.ones(len(order), np.bool_)
    opens[1:] = (np.diff(users) != 0) | (np.diff(surfaces) != 0) | (np.diff(times) > GAP_MS)
    items = log.items[order]
    shown: set[int] = set()
    at = -1
    # only runs of two and more can break: walk those
    for place in np.flatnonzero(~opens).tolist():
        if place != at + 1:
            shown = {int(items[place - 1])}
        at = place
        item = int(items[place])
        if item in shown or len(shown) == MAX_IMPRESSIONS:
            opens[place] = True
            shown = set()
        shown.add(item)
    return opens
