"""How kernels are compiled: one decorator, once a machine, and the array types of their signatures."""

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

U64: Final[Any] = types.uint64
I64: Final[Any] = types.int64
F32: Final[Any] = types.float32
F64: Final[Any] = types.float64
U32: Final[Any] = types.uint32
U8: Final[Any] = types.uint8
VOID: Final[Any] = types.void
BOOL: Final[Any] = types.boolean

U64_IN: Final[Any] = types.Array(types.uint64, 1, "C", readonly=True)
I64_IN: Final[Any] = types.Array(types.int64, 1, "C", readonly=True)
U32_MATRIX_IN: Final[Any] = types.Array(types.uint32, 2, "C", readonly=True)
F32_MATRIX_IN: Final[Any] = types.Array(types.float32, 2, "C", readonly=True)

U8_OUT: Final[Any] = types.Array(types.uint8, 1, "C")
U32_OUT: Final[Any] = types.Array(types.uint32, 1, "C")
U64_OUT: Final[Any] = types.Array(types.uint64, 1, "C")
I64_OUT: Final[Any] = types.Array(types.int64, 1, "C")
F32_OUT: Final[Any] = types.Array(types.float32, 1, "C")
F32_MATRIX_OUT: Final[Any] = types.Array(types.float32, 2, "C")

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


def kernel(signature: Any, *, reorder_sums: bool = False, allocates: bool = True) -> Callable[[F], F]:
    """Compile a function for one signature, without the GIL, through the on-disk cache.

    Args:
        signature: the types of result and arguments.
        reorder_sums: let the compiler add floats in another order, so that it can use vector registers.
            The order is fixed when it compiles: equal inputs still give equal bits.
        allocates: whether it makes arrays. One that does not has no references counted, which in a loop
            with `inlined` functions takes longer than the work.
    """
    options: dict[str, Any] = {"fastmath": {"reassoc", "nsz"} if reorder_sums else False, "_nrt": allocates}

    def compiled(function: F) -> F:
        with _turn():
            done: Any = njit(signature, cache=True, nogil=True, error_model="numpy", **options)(function)
        return done  # type: ignore[no-any-return]

    return compiled


def inlined(function: F) -> F:
    """Paste a function into the kernels that call it."""
    done: Any = njit(inline="always")(function)
    return done  # type: ignore[no-any-return]
