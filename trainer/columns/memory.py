"""Reads of little-endian values that lie anywhere in an array of bytes, for kernels. They check no bounds."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BYTE: Final = 1


def _reading(kind: Any, stored: Any) -> Any:
    def read(_typing: Any, data: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, arguments[0])
            place = builder.bitcast(builder.gep(view.data, [arguments[1]]), ir.PointerType(stored))
            return builder.load(place, align=_BYTE)

        return kind(data, at), generate

    return intrinsic(read)


u64_at: Final[Any] = _reading(types.uint64, ir.IntType(64))
"""u64_at(data, at): the eight bytes from `at` on."""

u32_at: Final[Any] = _reading(types.uint32, ir.IntType(32))
"""As `u64_at`, four bytes."""

u16_at: Final[Any] = _reading(types.uint16, ir.IntType(16))
"""As `u64_at`, two bytes."""

f32_at: Final[Any] = _reading(types.float32, ir.FloatType())
"""As `u32_at`, as a float."""
