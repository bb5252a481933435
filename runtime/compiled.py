"""How kernels are compiled: one decorator, once a machine, and the types of their signatures."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from numba import njit, types

from runtime import kernel_cache

U64: Final[Any] = types.uint64
I64: Final[Any] = types.int64
I32: Final[Any] = types.int32
F32: Final[Any] = types.float32
F64: Final[Any] = types.float64
U32: Final[Any] = types.uint32
U8: Final[Any] = types.uint8
BOOL: Final[Any] = types.boolean
VOID: Final[Any] = types.void

kernel_cache.install()

F = TypeVar("F", bound=Callable[..., Any])

_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01


@contextmanager
def _turn() -> Iterator[None]:
    """Let one process of this user compile at a time, so that those beside it find its code in the cache.

    Shards and replicas start together: on a cold cache each would compile everything. Only a saving, so
    whoever has waited too long goes on without.
    """
    path = Path(tempfile.gettempdir()) / f"headwater-kernels-{os.getuid()}.lock"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while not _locked(handle) and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def taken(dtype: Any, dimensions: int) -> Any:
    """The type of a contiguous array that a kernel reads, which may be read-only."""
    return types.Array(dtype, dimensions, "C", readonly=True)


def made(dtype: Any, dimensions: int) -> Any:
    """The type of a contiguous array that a kernel writes."""
    return types.Array(dtype, dimensions, "C")


def kernel(
    signature: Any, *, reorder_sums: bool = False, fuse: bool = False, allocates: bool = True
) -> Callable[[F], F]:
    """Compile a function for one signature, without the GIL, through the on-disk cache.

    Args:
        signature: the types of result and arguments.
        reorder_sums: let the compiler add floats in another order, so that it can use vector registers.
            The order is fixed when it compiles: equal inputs still give equal bits.
        fuse: let it add a product without rounding it first, which not every machine can: equal inputs give
            equal bits on one machine.
        allocates: whether it makes arrays. One that does not has no references counted, which in a loop
            with `inlined` functions takes longer than the work.
    """
    flags = ({"reassoc", "nsz"} if reorder_sums else set()) | ({"contract"} if fuse else set())
    options: dict[str, Any] = {"fastmath": flags or False, "_nrt": allocates, "error_model": "numpy"}

    def compiled(function: F) -> F:
        with _turn():
            done: Any = njit(signature, cache=True, nogil=True, **options)(function)
        return done  # type: ignore[no-any-return]

    return compiled


def fused_kernel(signature: Any) -> Callable[[F], F]:
    """As `kernel`, for loops over floats: with sums in any order and fused products."""
    return kernel(signature, reorder_sums=True, fuse=True)


def inlined(function: F) -> F:
    """Paste a function into the kernels that call it."""
    done: Any = njit(inline="always")(function)
    return done  # type: ignore[no-any-return]
