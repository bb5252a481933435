"""Software prefetch of a matrix row, so that the misses of many rows overlap before any of them is needed."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_FLOATS: Final = 16
"""Float32 values of a cache line."""

_READ, _KEEP, _DATA = 0, 3, 1


def _prefetch(_typing: Any, matrix: Any, row: Any, column: Any) -> Any:  # noqa: ARG001 - named in the signature
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        unpack: Any = cgutils.unpack_tuple
        width = unpack(builder, view.shape, 2)[1]
        element = builder.add(builder.mul(arguments[1], width), arguments[2])
        pointer_type = ir.PointerType(ir.IntType(8))
        pointer = builder.bitcast(builder.gep(view.data, [element]), pointer_type)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer_type, word, word, word])
        insert: Any = cgutils.get_or_insert_function
        function = insert(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, word(_READ), word(_KEEP), word(_DATA)])
        return context.get_dummy_value()

    return types.void(matrix, types.int64, types.int64), generate


prefetch: Final[Any] = intrinsic(_prefetch)
"""prefetch(matrix, row, column) asks for the line of an element of a contiguous matrix; it never faults."""
