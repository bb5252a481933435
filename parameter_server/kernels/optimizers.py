"""The loops of the optimizers: update rows that are known, or find, touch and update rows in one pass.

A table's state is a flat float32 array: that of a row starts at row * stride + offset, laid out as
`optimizers.py` of the package says. Only the first w values of a gradient count, w being the width of
`vectors`. `kind` and the five values after the gradients say which optimizer, as `steps.py` takes them.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any

import numpy as np

from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.prefetch import GROUP
from parameter_server.kernels.rows import BLOCK, HALVES, LAST_USE, VERSION
from parameter_server.kernels.search import ask, ask_rows, probe, probe_other, settled
from parameter_server.kernels.signatures import (
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    F32_OUT,
    F64,
    I64,
    I64_IN,
    I64_OUT,
    U32,
    U32_OUT,
    U64,
    U64_IN,
    U64_OUT,
    VOID,
    kernel,
)
from parameter_server.kernels.steps import step


@kernel(
    VOID(I64, F32_MATRIX_OUT, F32_OUT, I64, I64, I64_IN, I64_IN, F32_MATRIX_IN, F64, F64, F64, F64, F64),
    reorder_sums=True,
    allocates=False,
)
def update(
    kind: Any,
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    a: Any,
    b: Any,
    c: Any,
) -> None:
    """Update the distinct `rows` (n,) from gradients[places]."""
    width, wide = vectors.shape[1], gradients.shape[1]
    weights, given = vectors.reshape(-1), gradients.reshape(-1)
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        ask_rows(weights, width, rows, start, stop)
        ask_rows(state, stride, rows, start, stop)
        for i in range(start, stop):
            w, s, g = rows[i] * width, rows[i] * stride + offset, places[i] * wide
            step(kind, weights, w, state, s, given, g, width, rate, decay, a, b, c)


@kernel(
    I64(
        *(U64_IN, U64_IN, U64_IN, U64_OUT, U32_OUT, U64_OUT, U64_IN),
        *(I64, F32_MATRIX_OUT, F32_OUT, I64, I64, F32_MATRIX_IN, F64, F64, F64, F64, F64),
        *(U64, U32, U64_OUT, I64_OUT),
    ),
    reorder_sums=True,
    allocates=False,
)
def find_and_update(
    old: Any,
    new: Any,
    sequence: Any,
    records: Any,
    halves: Any,
    summary: Any,
    wanted: Any,
    kind: Any,
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    a: Any,
    b: Any,
    c: Any,
    clock: Any,
    event_second: Any,
    hashes: Any,
    rows: Any,
) -> Any:
    """Find, touch and update the rows of the distinct `wanted` (n,) from gradients (n, w); how many miss.

    `rows` (n,) becomes the row of each, -1 for those that are missing, which stay as they are. `halves` is a
    view of `records`, and so is `state` where it lies in them (offset above 0): one miss then brings both.
    `hashes` uint64 (n,) is scratch.
    """
    n, width = len(wanted), vectors.shape[1]
    weights, given = vectors.reshape(-1), gradients.reshape(-1)
    missing = np.int64(0)
    for start in range(0, n + 3 * GROUP, GROUP):
        first, second, third = max(start - GROUP, 0), max(start - 2 * GROUP, 0), max(start - 3 * GROUP, 0)
        ask(new, wanted, hashes, start, min(start + GROUP, n))
        probe(new, records, weights, width, hashes, rows, first, min(start, n))
        probe_other(new, records, weights, width, hashes, rows, second, min(start - GROUP, n))
        if offset == 0:
            ask_rows(state, stride, rows, second, min(start - GROUP, n))
        for i in range(third, min(start - 2 * GROUP, n)):
            row = rows[i]
            place = row * RECORD
            if not (0 <= place < len(records) and records[place] == wanted[i]):
                row = settled(old, new, sequence, records, wanted[i], hashes[i])
                rows[i] = row
            if row < 0:
                missing += 1
            else:
                records[row * RECORD + VERSION] = clock
                halves[row * HALVES + LAST_USE] = max(halves[row * HALVES + LAST_USE], event_second)
                summary[row // BLOCK] = max(summary[row // BLOCK], clock)
                w, s = row * width, row * stride + offset
                step(kind, weights, w, state, s, given, i * width, width, rate, decay, a, b, c)
    return missing
