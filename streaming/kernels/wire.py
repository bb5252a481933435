"""MessagePack as our codec writes it, read piece by piece out of a u1 array.

Each reader takes the place `at` where a value begins and the `end` of what may be read, and gives the place
after the value first: BAD where another kind of value lies there, or one that is cut off. BAD lies beyond
every end, so that reading on from it gives BAD again, and is to be looked at once. Places are uint64: numba
lets a signed index count from the end.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import inlined

BAD: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
BEAT: Final = 2
"""The tag of a heartbeat."""
MILLIS: Final = np.int64((1 << 53) - 1)
"""The latest event time, Unix ms; see `schema.records`."""
_ONE: Final = np.uint64(1)
_BASIS: Final = np.uint64(0xCBF29CE484222325)
_PRIME: Final = np.uint64(0x100000001B3)
_HALF: Final = np.uint64(32)
_FLOAT: Final = 0xCB
_BIN: Final = np.uint64(0xC4)
_LARGEST: Final = np.uint64((1 << 63) - 1)


@inlined
def number(body: Any, at: Any, end: Any) -> Any:
    """An unsigned integer below 2**63: (after, value as i8)."""
    after, value = BAD, np.uint64(0)
    if at < end:
        first = np.uint64(body[at])
        if first < np.uint64(0x80):
            after, value = at + _ONE, first
        elif np.uint64(0xCC) <= first <= np.uint64(0xCF):
            past = at + _ONE + (_ONE << (first - np.uint64(0xCC)))
            if past <= end:
                for i in range(at + _ONE, past):
                    value = value << np.uint64(8) | np.uint64(body[i])
                after = past if value <= _LARGEST else BAD
    return after, np.int64(value)


@inlined
def array(body: Any, at: Any, end: Any) -> Any:
    """The head of an array: (where its first element lies, how many it has)."""
    after, size = BAD, np.uint64(0)
    if at < end:
        first = np.uint64(body[at])
        if np.uint64(0x90) <= first <= np.uint64(0x9F):
            after, size = at + _ONE, first & np.uint64(0xF)
        elif first == np.uint64(0xDC) or first == np.uint64(0xDD):
            past = at + _ONE + (np.uint64(2) << (first - np.uint64(0xDC)))
            if past <= end:
                for i in range(at + _ONE, past):
                    size = size << np.uint64(8) | np.uint64(body[i])
                after = past
    return after, size


@inlined
def text(body: Any, at: Any, end: Any) -> Any:
    """A string of less than 256 ASCII characters: (after, where its first byte lies, how many)."""
    start, size, after = BAD, np.uint64(0), BAD
    if at < end:
        first = np.uint64(body[at])
        if np.uint64(0xA0) <= first <= np.uint64(0xBF):
            start, size = at + _ONE, first & np.uint64(0x1F)
        elif first == np.uint64(0xD9) and at + _ONE < end:
            start, size = at + np.uint64(2), np.uint64(body[at + _ONE])
    if start <= end and size <= end - start:
        joined = np.uint64(0)
        for i in range(start, start + size):
            joined |= np.uint64(body[i])
        if joined < np.uint64(0x80):
            after = start + size
    return after, start, size


@inlined
def hash_of(body: Any, start: Any, size: Any) -> Any:
    """A hash of body[start : start + size]: FNV-1a, its upper half folded into the lower."""
    hashed = _BASIS
    for i in range(start, start + size):
        hashed = (hashed ^ np.uint64(body[i])) * _PRIME
    return hashed ^ (hashed >> _HALF)


@inlined
def binary(body: Any, at: Any, end: Any) -> Any:
    """A run of bytes: (after, where its first byte lies, how many)."""
    after, start, size = BAD, BAD, np.uint64(0)
    if at < end:
        first = np.uint64(body[at])
        if _BIN <= first <= _BIN + np.uint64(2):
            start = at + _ONE + (_ONE << (first - _BIN))
            if start <= end:
                for i in range(at + _ONE, start):
                    size = size << np.uint64(8) | np.uint64(body[i])
                after = start + size if size <= end - start else BAD
    return after, start, size


@inlined
def put_head(out: Any, at: Any, least: Any, value: Any) -> Any:
    """Write `value` in 1, 2, 4 or 8 bytes, big-endian, behind the byte that says so, `least` for 1 byte."""
    code = np.uint64(0)
    while code < np.uint64(3) and value >> (np.uint64(8) << code):
        code += _ONE
    out[at] = least + code
    at += _ONE
    shift = np.uint64(8) << code
    while shift:
        shift -= np.uint64(8)
        out[at] = value >> shift & np.uint64(0xFF)
        at += _ONE
    return at


@inlined
def put_number(out: Any, at: Any, value: Any) -> Any:
    """Write an unsigned integer below 2**63, as short as may be; the place after it."""
    small = np.uint64(value) < np.uint64(0x80)
    if small:
        out[at] = value
    return at + _ONE if small else put_head(out, at, np.uint64(0xCC), np.uint64(value))


@inlined
def put_binary(out: Any, at: Any, size: Any) -> Any:
    """Write the head of a run of bytes; the place of the first of them."""
    return put_head(out, at, _BIN, size)


@inlined
def put_bytes(out: Any, at: Any, body: Any, start: Any, size: Any) -> Any:
    """Copy bytes; the place after them."""
    for i in range(size):
        out[at + i] = body[start + i]
    return at + size


@inlined
def real(body: Any, at: Any, end: Any) -> Any:
    """The place after a float of 8 bytes."""
    after = BAD
    if at < end and end - at >= np.uint64(9) and body[at] == _FLOAT:
        after = at + np.uint64(9)
    return after


@inlined
def same(body: Any, start: Any, other: Any, begin: Any, size: Any) -> Any:
    """Whether `size` bytes of two arrays are equal."""
    i = np.uint64(0)
    while i < size and body[start + i] == other[begin + i]:
        i += _ONE
    return i == size
