"""The loops of the optimizers: update rows that are known, or find, touch and update rows in one pass.

A table's state is a flat float32 array: that of a row starts at row * stride + offset, laid out as
`optimizers.py` of the package says. Only the first w values of a gradient count, w being the width of
`vectors`. `kind` and the five values after the gradients say which optimizer, as `steps.py` takes them.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any

import numpy as np

from parameter_server.kernels.rows import touch_row
from parameter_server.kernels.search import LAST, SECOND, ask_row, confirmed, hash_all, stages
from parameter_server.kernels.signatures import (
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    F32_OUT,
    I64_IN,
    I64_OUT,
    U32_OUT,
    U64_IN,
    U64_OUT,
)
from parameter_server.kernels.steps import step
from runtime.compiled import F64, I64, U32, U64, VOID, kernel
from runtime.prefetch import GROUP


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
    width, flat = vectors.shape[1], vectors.reshape(-1)
    n = len(rows)
    for i in range(n):
        if i + GROUP < n:
            ask_row(flat, width, rows[i + GROUP])
            ask_row(state, stride, rows[i + GROUP])
        row = np.uint64(rows[i])
        s = row * np.uint64(stride) + np.uint64(offset)
        step(kind, vectors, row, state, s, gradients, np.uint64(places[i]), rate, decay, a, b, c)


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
    n, width, flat = len(wanted), vectors.shape[1], vectors.reshape(-1)
    missing = np.int64(0)
    hash_all(wanted, hashes)
    for ahead in range(n + LAST):
        stages(new, records, flat, width, hashes, rows, ahead)
        i = ahead - SECOND
        if offset == 0 and 0 <= i < n and rows[i] >= 0:
            ask_row(state, stride, rows[i])
        i = ahead - LAST
        if i >= 0:
            row = confirmed(old, new, sequence, records, rows[i], wanted[i], hashes[i])
            rows[i] = row
            if row < 0:
                missing += 1
            else:
                w = np.uint64(row)
                touch_row(records, halves, summary, w, clock, event_second)
                s = w * np.uint64(stride) + np.uint64(offset)
                step(kind, vectors, w, state, s, gradients, np.uint64(i), rate, decay, a, b, c)
    return missing
