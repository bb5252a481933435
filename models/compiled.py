"""How this folder's kernels are compiled, and the array types of their signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from numba import njit, types

I64: Final[Any] = types.int64
U64: Final[Any] = types.uint64
F32: Final[Any] = types.float32
F64: Final[Any] = types.float64
BOOL: Final[Any] = types.boolean
VOID: Final[Any] = types.void

F = TypeVar("F", bound=Callable[..., Any])


def taken(dtype: Any, dimensions: int) -> Any:
    """The type of a contiguous array that a kernel reads, which may be read-only."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def made(dtype: Any, dimensions: int) -> Any:
    """The type of a contiguous array that a kernel writes."""
    return types.Array(dtype, dimensions, "C")


def kernel(signature: Any) -> Callable[[F], F]:
    """Compile a function for one signature, without the GIL, through the on-disk cache.

    Float sums may be fused and reordered for vector registers; the order is fixed when it compiles, so that
    equal inputs give equal bits on one machine.
    """

    def compiled(function: F) -> F:
        flags = {"reassoc", "nsz", "contract"}
        done: Any = njit(signature, cache=True, nogil=True, fastmath=flags)(function)
        return done  # type: ignore[no-any-return]

    return compiled


def inlined(function: F) -> F:
    """Paste a function into the kernels that call it."""
    done: Any = njit(inline="always")(function)
    return done  # type: ignore[no-any-return]
