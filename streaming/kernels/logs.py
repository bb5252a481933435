"""Feature logs as our own codec writes them: where their parts lie, and whether their columns fit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I64, U8, U64, inlined, kernel, made, taken
from streaming.kernels.wire import BAD, BEAT, MILLIS, array, binary, number, text

START: Final = 0
END: Final = 1
ID_AT: Final = 2
ID_SIZE: Final = 3
TIME: Final = 4
ITEMS: Final = 5
ROWS: Final = 6
SEEN: Final = 7
USER: Final = 7
SURFACE: Final = 8
POSITIONS: Final = 9
FEATURES: Final = 10
FEATURES_END: Final = 11
SCORES: Final = 12
SCORES_SIZE: Final = 13
PROPENSITIES: Final = 14
PROPENSITIES_SIZE: Final = 15
PARTS: Final = 16
"""Of a log: where it lies; its id; its event time; where its items lie and how many they are: these SEEN are
what the join looks at. Its user and surface; where positions, features (packed), scores and propensities
lie."""

NEWEST: Final = 0
BEATS: Final = 1
WORD: Final = 2
WIDEST: Final = 3
LONGEST: Final = 4
TOTALS: Final = 5
"""Of a message: the latest event time of a log, -1 without any; heartbeats, and the latest, -1 without any;
how many rows the widest log has, and bytes the longest id."""

LEAST_BYTES: Final = 3
"""A record takes at least as many bytes."""

_NONE: Final = np.int64(-1)
_ONE: Final = np.uint64(1)
_TWO: Final = np.uint64(2)
_ID: Final = np.uint64(8)
_FLOAT: Final = np.uint64(4)
_FIELDS: Final = np.uint64(12)
_LOG: Final = 1


@inlined
def _model(body: Any, at: Any, end: Any) -> Any:
    """The place after a model version."""
    at, fields = array(body, at, end)
    at, _ = number(body, at, end)
    at, shards = array(body, at, end)
    nth = np.uint64(0)
    while nth < shards and at != BAD:
        at, both = array(body, at, end)
        at, _ = number(body, at, end)
        at, _ = number(body, at, end)
        at = at if both == _TWO else BAD
        nth += _ONE
    return at if fields == _TWO else BAD


@inlined
def _columns(body: Any, at: Any, end: Any, rows: Any) -> Any:
    """The place after columns of ids, each of which has to hold so many rows."""
    at, columns = array(body, at, end)
    nth = np.uint64(0)
    while nth < columns and at != BAD:
        at, fields = array(body, at, end)
        at, _ = number(body, at, end)
        at, _, ids = binary(body, at, end)
        at, lengths, size = binary(body, at, end)
        total = rows
        if at != BAD and size:
            total = np.uint64(0)
            for i in range(lengths, lengths + size, _TWO):
                total += np.uint64(body[i])
            for i in range(lengths + _ONE, lengths + size, _TWO):
                total += np.uint64(body[i]) << np.uint64(8)
        fits = (not size or size == _TWO * rows) and ids == total * _ID
        at = at if fits and fields == np.uint64(3) else BAD
        nth += _ONE
    return at


@kernel(U64(taken(U8, 1), U64, U64, made(I64, 1)), allocates=False)
def walk(body: Any, at: Any, end: Any, parts: Any) -> Any:
    """Find the `parts` (PARTS,) of the feature log at `at`.

    Returns:
        The place after it; BAD where our codec wrote no log, or one whose columns do not fit.
    """
    parts[START] = at
    at, fields = array(body, at, end)
    at, tag = number(body, at, end)
    at, start, size = text(body, at, end)
    parts[ID_AT], parts[ID_SIZE] = start, size
    at, parts[USER] = number(body, at, end)
    at, parts[TIME] = number(body, at, end)
    at, parts[SURFACE] = number(body, at, end)
    at = _model(body, at, end)
    at, items, size = binary(body, at, end)
    rows = size // _ID
    fits = (
        fields == _FIELDS
        and tag == _LOG
        and parts[TIME] <= MILLIS
        and rows > np.uint64(0)
        and size == rows * _ID
    )
    parts[ITEMS], parts[ROWS] = items, rows
    at, start, size = binary(body, at, end)
    fits = fits and size == _TWO * rows
    parts[POSITIONS], parts[FEATURES] = start, at
    at, groups = array(body, at, end)
    at = _columns(body, at, end, _ONE)
    at = _columns(body, at, end, rows)
    at, _, size = binary(body, at, end)
    fits = fits and groups == np.uint64(4) and size % _FLOAT == 0
    at, _, size = binary(body, at, end)
    parts[FEATURES_END] = at
    if not fits or at == BAD or size % (_FLOAT * rows):
        return BAD
    at, start, size = binary(body, at, end)
    parts[SCORES], parts[SCORES_SIZE] = start, size
    fits = size % (_FLOAT * rows) == 0
    at, start, size = binary(body, at, end)
    parts[PROPENSITIES], parts[PROPENSITIES_SIZE] = start, size
    fits = fits and (not size or size == _FLOAT * rows)
    at, _, size = binary(body, at, end)
    fits = fits and (not size or size == rows)
    parts[END] = at
    return at if fits else BAD


@kernel(I64(taken(U8, 1), U64, made(I64, 2), made(I64, 1)), allocates=False)
def parse(body: Any, begin: Any, logs: Any, totals: Any) -> Any:
    """Read the records of a message, which lie in `body` from `begin`, into `logs` (n, PARTS), one a row.

    A heartbeat has no ROWS. `totals` (TOTALS,) says what there is.

    Returns:
        How many there are; -1, and nothing is said of any, unless all are as our codec writes them and fit.
    """
    end = np.uint64(len(body))
    at, records = array(body, begin, end)
    nth, beats = np.uint64(0), 0
    newest, word, widest, longest = _NONE, _NONE, np.int64(0), np.int64(0)
    while nth < records and at != BAD:
        parts = logs[nth]
        after, fields = array(body, at, end)
        after, tag = number(body, after, end)
        after, time = number(body, after, end)
        if after != BAD and tag == BEAT and fields == _TWO and time <= MILLIS:
            parts[START], parts[END], parts[ROWS], parts[TIME] = at, after, 0, time
            parts[ID_AT], parts[ID_SIZE] = 0, 0
            at = after
            beats += 1
            word = max(word, time)
        else:
            at = walk(body, at, end, parts)
            newest, widest = max(newest, parts[TIME]), max(widest, parts[ROWS])
            longest = max(longest, parts[ID_SIZE])
        nth += _ONE
    totals[NEWEST], totals[BEATS], totals[WORD] = newest, beats, word
    totals[WIDEST], totals[LONGEST] = widest, longest
    return np.int64(records) if at == end else _NONE
