"""A few values of two rows at once, in vector registers: what the step of row-wise Adagrad is made of.

A loop over a row's values is not enough: that two rows do not overlap has to be seen anew for every row
before the compiler's own vector code may run, which takes longer than the work.
"""

# ruff: noqa: PLR0917 - an intrinsic takes what it is given one by one
from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES: Final = 8
"""How many float32 values go at once: the narrowest width that is worth it."""

_FLOAT: Final = ir.FloatType()
_INT: Final = ir.IntType(32)
_VECTOR: Final = ir.VectorType(_FLOAT, LANES)
_UNDEFINED: Final = ir.Constant(_VECTOR, ir.Undefined)
_ALIGNMENT: Final = 4


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """The address of LANES values of a flat array."""
    view = context.make_array(kind)(context, builder, array)
    return builder.bitcast(builder.gep(view.data, [index]), ir.PointerType(_VECTOR))


def _all(builder: Any, value: Any) -> Any:
    """`value` in every lane."""
    first = builder.insert_element(_UNDEFINED, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, _UNDEFINED, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _decayed(context: Any, builder: Any, kinds: Any, arguments: Any) -> tuple[Any, Any, Any]:
    """Where the weights are, the weights, and gradient + decay * weight."""
    weights, w, gradients, g, decay = arguments[:5]
    place = _place(context, builder, kinds[0], weights, w)
    weight = builder.load(place, align=_ALIGNMENT)
    gradient = builder.load(_place(context, builder, kinds[2], gradients, g), align=_ALIGNMENT)
    return place, weight, builder.fadd(gradient, builder.fmul(_all(builder, decay), weight))


def _squares(_typing: Any, weights: Any, w: Any, gradients: Any, g: Any, decay: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, gradient = _decayed(context, builder, signature.args, arguments)
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
        insert: Any = cgutils.get_or_insert_function
        reduce = insert(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
        squared = builder.fmul(gradient, gradient)
        return builder.call(reduce, [ir.Constant(_FLOAT, 0.0), squared], fastmath=("reassoc",))

    return types.float32(weights, w, gradients, g, decay), generate


def _descend(_typing: Any, weights: Any, w: Any, gradients: Any, g: Any, decay: Any, pace: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, weight, gradient = _decayed(context, builder, signature.args, arguments)
        moved = builder.fsub(weight, builder.fmul(_all(builder, arguments[5]), gradient))
        builder.store(moved, place, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(weights, w, gradients, g, decay, pace), generate


squares: Final[Any] = intrinsic(_squares)
"""squares(weights, w, gradients, g, decay): the sum of (gradient + decay * weight) ** 2 over LANES values.

The values of the flat float32 arrays begin at `w` and `g`; the order of the sum is the compiler's.
"""

descend: Final[Any] = intrinsic(_descend)
"""descend(weights, w, gradients, g, decay, pace): weight -= pace * (gradient + decay * weight), of LANES."""
