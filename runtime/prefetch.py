"""Software prefetch, which asks for a cache line before it is needed, and a fence for lock-free readers.

Handling ids in small groups, each stage asking for what the next one reads, lets cache misses overlap
instead of following one another.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

GROUP: Final = 16
"""How many ids have their misses in flight together."""

LINE_FLOATS: Final = 16
"""Float32 values of a cache line."""

_READ: Final = 0
_NEAREST: Final = 3
_SECOND: Final = 2
_DATA: Final = 1


def _asking(locality: int) -> Any:
    def prefetch(_typing: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, arguments[0])
            pointer_type = ir.PointerType(ir.IntType(8))
            pointer = builder.bitcast(builder.gep(view.data, [arguments[1]]), pointer_type)
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer_type, word, word, word])
            insert: Any = cgutils.get_or_insert_function
            function = insert(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, word(_READ), word(locality), word(_DATA)])
            return context.get_dummy_value()

        return types.void(array, index), generate

    return intrinsic(prefetch)


prefetch: Final[Any] = _asking(_NEAREST)
"""prefetch(array, index) asks for the cache line of an element of a contiguous array, of whatever dimensions,
counted from the first; it never faults."""

prefetch_second: Final[Any] = _asking(_SECOND)
"""As `prefetch`, but into the second-level cache only, which has room for more lines on their way."""


def _fence(_typing: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), generate


fence: Final[Any] = intrinsic(_fence)
"""fence() keeps reads and writes before it apart from those after it, in this thread as others see it."""
