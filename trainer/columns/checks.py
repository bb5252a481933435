"""Compiled checks of the values of a block whose form is right."""

# ruff: noqa: SIM110 - a kernel knows no all()
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import BOOL, I64, U8, kernel, made, taken
from trainer.columns import layout as at_
from trainer.columns.memory import f32_at, u32_at

_BYTES: Final = taken(U8, 1)


@kernel(BOOL(_BYTES, I64, I64), allocates=False)
def _finite(data: Any, at: Any, count: Any) -> Any:
    """Whether all of `count` floats are."""
    for i in range(count):
        if u32_at(data, at + 4 * i) & np.uint32(0x7F800000) == np.uint32(0x7F800000):
            return False
    return True


@kernel(BOOL(_BYTES, I64, I64), allocates=False)
def _at_most_zero(data: Any, at: Any, count: Any) -> Any:
    """Whether all of `count` floats are 0 or below."""
    for i in range(count):
        if not f32_at(data, at + 4 * i) <= 0:
            return False
    return True


@kernel(BOOL(_BYTES, I64, I64), allocates=False)
def _odds(data: Any, at: Any, count: Any) -> Any:
    """Whether all of `count` floats are above 0 and at most 1."""
    for i in range(count):
        if not 0 < f32_at(data, at + 4 * i) <= 1:
            return False
    return True


@kernel(BOOL(_BYTES, made(I64, 1), I64, I64, I64), allocates=False)
def values_fit(data: Any, block: Any, tasks: Any, context_dense: Any, item_dense: Any) -> Any:
    """Whether the values of a block, whose form is right, are within their bounds; counts its idle rows."""
    rows = block[at_.ROWS]
    if not _finite(data, block[at_.AT_CONTEXT_DENSE], context_dense):
        return False
    if not _finite(data, block[at_.AT_ITEM_DENSE], rows * item_dense):
        return False
    if not _at_most_zero(data, block[at_.AT_LOG_KEEP], rows):
        return False
    if block[at_.PROPENSITIES] and not _odds(data, block[at_.AT_PROPENSITIES], rows):
        return False
    block[at_.IDLE_ROWS] = 0
    for row in range(rows):
        idle = True
        for pair in range(row * tasks, (row + 1) * tasks):
            if data[block[at_.AT_MASK] + pair]:
                idle = False
                label = f32_at(data, block[at_.AT_LABELS] + 4 * pair)
                if not 0 <= label <= 1:
                    return False
        block[at_.IDLE_ROWS] += idle
    return True
