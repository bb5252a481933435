"""The array types of the kernels' signatures."""

from __future__ import annotations

from typing import Any, Final

from runtime.compiled import F32, I64, U8, U32, U64, made, taken

U64_IN: Final[Any] = taken(U64, 1)
I64_IN: Final[Any] = taken(I64, 1)
U32_MATRIX_IN: Final[Any] = taken(U32, 2)
F32_MATRIX_IN: Final[Any] = taken(F32, 2)

U8_OUT: Final[Any] = made(U8, 1)
U32_OUT: Final[Any] = made(U32, 1)
U64_OUT: Final[Any] = made(U64, 1)
I64_OUT: Final[Any] = made(I64, 1)
F32_OUT: Final[Any] = made(F32, 1)
F32_MATRIX_OUT: Final[Any] = made(F32, 2)
