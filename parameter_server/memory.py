"""Memory for columns: zeroed, aligned to cache lines, on huge pages when large, and grown in place.

Knows no table. Address space is reserved ahead of use, so that growth moves nothing and a reader beside it
keeps valid addresses; the system gives zeroed pages as they are first touched, and takes a cut-off tail back.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HUGE_PAGE: Final = 2 << 20
_HUGE_FROM: Final = 2 * _HUGE_PAGE
"""Bytes from which a column asks for huge pages: a small one would waste most of its first."""
_AHEAD: Final = 16
"""How many times its first size a column can grow in place; beyond, it is copied once."""
_NO_RESERVE: Final = 0x4000
"""MAP_NORESERVE of Linux, unnamed by Python before 3.13: address space without a promise of memory."""


class Column:
    """A growable C array of shape (rows, width), or (rows,) for width 0, all zero at first."""

    def __init__(self, rows: int, width: int, dtype: DTypeLike) -> None:
        self._width = width
        self._kind = np.dtype(dtype)
        self._row_bytes = max(1, width) * self._kind.itemsize
        self._room = 0
        self._advised = 0
        self._map: mmap.mmap
        self._bytes: NDArray[np.uint8]
        self.array: NDArray[Any]
        """The rows; another view after `resize`."""
        self._reserve(rows)
        self._view(rows)

    def _reserve(self, rows: int) -> None:
        self._room = max(1, rows) * _AHEAD
        size = self._room * self._row_bytes + _HUGE_PAGE
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        raw = np.frombuffer(self._map, np.uint8)
        self._start = -raw.ctypes.data % _HUGE_PAGE
        self._bytes = raw[self._start : self._start + self._room * self._row_bytes]
        self._advised = 0

    def _view(self, rows: int, copied: NDArray[Any] | None = None) -> None:
        used = rows * self._row_bytes
        if used >= _HUGE_FROM and used > self._advised:
            self._map.madvise(mmap.MADV_HUGEPAGE, self._start, _whole_pages(used))
            self._advised = used
        flat = self._bytes[:used].view(self._kind)
        array = flat if self._width == 0 else flat.reshape(rows, self._width)
        if copied is not None:
            array[: len(copied)] = copied
        self.array = array  # only now: a sweep reads without a lock

    def resize(self, rows: int) -> None:
        """Keep the first `rows` rows, or add zeroed ones. Views of rows that stay remain valid."""
        before = self.array
        if rows > self._room:
            self._reserve(rows)
            self._view(rows, before)
            return
        if rows < len(before):
            self._forget(rows, before)
        self._view(rows)

    def _forget(self, rows: int, before: NDArray[Any]) -> None:
        """Give whole pages after `rows` back to the system, which zeroes them; zero the rest by hand."""
        start = self._start + rows * self._row_bytes
        stop = self._start + len(before) * self._row_bytes
        page = min(-(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop)
        before[rows : rows + (page - start) // self._row_bytes + 1] = 0
        if page < stop:
            self._map.madvise(mmap.MADV_DONTNEED, page, stop - page)


def _whole_pages(size: int) -> int:
    return -(-size // _HUGE_PAGE) * _HUGE_PAGE


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed C array whose first element starts a cache line, on huge pages when large."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    region = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    raw = np.frombuffer(region, np.uint8)
    start = -raw.ctypes.data % _HUGE_PAGE
    if size >= _HUGE_FROM:
        region.madvise(mmap.MADV_HUGEPAGE, start, size)
    return raw[start : start + size].view(dtype).reshape(shape)
