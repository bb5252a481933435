"""Products in vector registers: what search and walk spend their time on. Compiled into other kernels.

A loop over arrays is not enough: that two of them do not overlap would have to be seen anew at every call,
and sums would go to memory and back.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from runtime.compiled import F32, VOID, made, taken
from runtime.compiled import fused_kernel as kernel

_WIDE: Final = 64
_HALF: Final = 32
_NARROW: Final = 8
_SUMS: Final = 64
"""Floats that are summed at once: enough that no addition waits for the one before."""

_FLOAT: Final = ir.FloatType()
_INT: Final = ir.IntType(32)
_LONG: Final = ir.IntType(64)
_FUSED: Final = ("reassoc", "contract", "nsz")
_FLOAT_BYTES: Final = 4
_IN1, _IN2, _OUT1 = taken(F32, 1), taken(F32, 2), made(F32, 1)


def _columns(width: int) -> Any:
    """An intrinsic for `width` columns of a vector-matrix product."""
    vector, rows_at_once = ir.VectorType(_FLOAT, width), _SUMS // width

    def columns(_typing: Any, values: Any, matrix: Any, start: Any, into: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            views = [
                context.make_array(kind)(context, builder, array)
                for kind, array in zip(signature.args[:4], arguments[:4], strict=True)
            ]
            of_values, of_matrix, of_start, of_into = (view.data for view in views)
            unpack: Any = cgutils.unpack_tuple
            local: Any = cgutils.alloca_once_value
            rows, stride = unpack(builder, views[1].shape)
            at = arguments[4]

            def place(base: Any, index: Any) -> Any:
                return builder.bitcast(builder.gep(base, [index]), ir.PointerType(vector))

            def add(row: Any, total: Any) -> None:
                value = builder.load(builder.gep(of_values, [row]))
                begin = builder.add(builder.mul(row, stride), at)
                part = builder.load(place(of_matrix, begin), align=_FLOAT_BYTES)
                grown = builder.fmul(_all(builder, value, vector), part, flags=_FUSED)
                builder.store(builder.fadd(builder.load(total), grown, flags=_FUSED), total)

            zeros = ir.Constant(vector, [0.0] * width)
            totals = [local(builder, zeros) for _ in range(rows_at_once)]
            step = ir.Constant(_LONG, rows_at_once)
            whole = builder.sub(rows, builder.urem(rows, step))
            with cgutils.for_range_slice(builder, ir.Constant(_LONG, 0), whole, step, _LONG) as (row, _):
                for i, total in enumerate(totals):
                    add(builder.add(row, ir.Constant(_LONG, i)), total)
            with cgutils.for_range_slice(builder, whole, rows, ir.Constant(_LONG, 1), _LONG) as (row, _):
                add(row, totals[0])
            summed = builder.load(place(of_start, at), align=_FLOAT_BYTES)
            for total in totals:
                summed = builder.fadd(summed, builder.load(total), flags=_FUSED)
            builder.store(summed, place(of_into, at), align=_FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(values, matrix, start, into, at), generate

    return intrinsic(columns)


def _all(builder: Any, value: Any, vector: Any) -> Any:
    """`value` in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    lanes = ir.Constant(ir.VectorType(_INT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, lanes)


_wide: Final[Any] = _columns(_WIDE)
_half: Final[Any] = _columns(_HALF)
_narrow: Final[Any] = _columns(_NARROW)


@kernel(VOID(_IN1, _IN2, _IN1, _OUT1))
def product(values: Any, matrix: Any, start: Any, into: Any) -> None:
    """`into` = `start` + `values` @ `matrix`; `into` overlaps none of them.

    The last columns are computed with some before them once more, so that they fill a register.
    """
    width = into.shape[0]
    if width < _NARROW:
        for k in range(width):
            into[k] = start[k]
            for i in range(values.shape[0]):
                into[k] += values[i] * matrix[i, k]
    at = 0
    while at < width >= _NARROW:
        left = width - at
        if left > _HALF and width >= _WIDE:
            _wide(values, matrix, start, into, np.int64(min(at, width - _WIDE)))
            at += _WIDE
        elif left > _NARROW and width >= _HALF:
            _half(values, matrix, start, into, np.int64(min(at, width - _HALF)))
            at += _HALF
        else:
            _narrow(values, matrix, start, into, np.int64(min(at, width - _NARROW)))
            at += _NARROW
