"""Vectors as small integers, and how far a product of such is off at most. Compiled into other kernels.

A vector is unit * codes, to half a unit a value. Codes of users are int16, those of items int8: their product
is summed in int32.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from runtime.compiled import F32, I64, VOID, inlined, made, taken
from runtime.compiled import fused_kernel as kernel

ITEM_MOST: Final = np.float32(127)
"""The largest code of an item."""
BLOCK: Final = 16
"""Rows of codes are filled up with zeros to so many, which go at once."""

_USER_MOST: Final = 32767
_SUM_MOST: Final = 2**31 - 1
_LEAST: Final = np.float32(1e-30)
_GREATEST: Final = np.float32(1e30)
"""A unit has to have an inverse: larger values have no codes, vectors of smaller ones are coded as zeros."""
_SIZE: Final = np.int32(0x7FFFFFFF)
"""A float's bits but for its sign, which are in the order of sizes; infinity's and then NaN's are above."""
_UNKNOWN: Final = np.float32(np.nan)
_EPSILON: Final = np.float32(1.01 * 2**-24)
_HALF_ITEM: Final = np.float32(0.5001)
_HALF_USER: Final = np.float32(0.51)
"""Half a unit, and what the unit's own rounding adds."""
_MORE: Final = np.float32(1.001)
_UNDERFLOW: Final = np.float32(1e-35)
"""More than products of the smallest units are off by."""


@inlined
def coded(values: Any, start: Any, count: Any, most: Any, codes: Any, at: Any) -> Any:
    """Code `count` floats of `values` from `start` on into `codes` from `at` on, at most `most`; the unit.

    What has no codes has zeros in their stead, and NaN as its unit.
    """
    bits = np.int32(0)
    for d in range(count):
        bits = np.int32(max(bits, np.float32(values[start + d]).view(np.int32) & _SIZE))
    largest = np.int32(bits).view(np.float32)
    if _LEAST <= largest <= _GREATEST:
        rate = most / largest
        for d in range(count):
            codes[at + d] = np.int16(np.rint(values[start + d] * rate))
        return largest / most
    for d in range(count):
        codes[at + d] = 0
    return largest + largest if largest < _LEAST else _UNKNOWN


@kernel(VOID(taken(F32, 1), made(types.int16, 1), made(F32, 1)))
def user_codes(x: Any, codes: Any, terms: Any) -> None:
    """Code the user `x` (dim,) into `codes` i16 (width,), which are zeros; `terms` (3,) see `doubt`."""
    width = codes.shape[0]
    most = np.float32(min(_USER_MOST, _SUM_MOST // (np.int64(ITEM_MOST) * width)))
    unit = coded(x, np.uint64(0), np.uint64(x.shape[0]), most, codes, np.uint64(0))
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += abs(x[d])
    rounding = _EPSILON * np.float32(width + 16)
    terms[0] = unit
    terms[1] = _MORE * (
        total * (_HALF_ITEM + rounding * ITEM_MOST) + unit * _HALF_USER * ITEM_MOST * np.float32(width)
    )
    terms[2] = rounding


@inlined
def doubt(terms: Any, unit: Any, bias: Any) -> Any:
    """How far the scores by codes and by floats are apart at most, of an item with this unit and bias."""
    return unit * terms[1] + abs(bias) * terms[2] + _UNDERFLOW


@kernel(F32(taken(types.int16, 1), taken(types.int8, 1), I64))
def product_of_codes(user: Any, codes: Any, start: Any) -> Any:
    """The sum of `user` (width,) times `codes` from `start` on."""
    first, total = np.uint64(start), np.int32(0)
    for d in range(np.uint64(user.shape[0])):
        total = np.int32(total + np.int32(np.int32(user[d]) * np.int32(codes[first + d])))
    return np.float32(total)
