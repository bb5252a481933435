"""The tokens of MessagePack, compiled: integers, text, bytes, and the heads of arrays."""

# ruff: noqa: C901, PLR0911, PLR0912, PLR2004 - the format has as many cases as it has
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from runtime.compiled import I64, U8, kernel, taken

BAD, INTEGER, TEXT, BYTES, ARRAY = range(5)

_NEVER: Final = 0xC1
"""The byte that begins nothing."""
_TUPLE: Final[Any] = types.UniTuple


@kernel(_TUPLE(I64, 4)(taken(U8, 1), I64, I64), allocates=False)
def token(data: Any, at: Any, end: Any) -> Any:
    """What begins at `at`: its kind, its value, where its content begins, and what follows it.

    The value is that of an integer, the size of text and bytes, the length of an array, whose content
    follows. What is none of these, or does not end by `end`, is BAD, of size 0, and `end` follows it.
    """
    lead = np.int64(data[at]) if at < end else np.int64(_NEVER)
    body = at + 1
    if lead < 0x80:
        return INTEGER, lead, body, body
    if lead >= 0xE0:
        return INTEGER, lead - 256, body, body
    if 0x90 <= lead < 0xA0:
        return ARRAY, lead & 15, body, body
    width, kind, signed = np.int64(0), BAD, lead >= 0xD0
    if 0xA0 <= lead < 0xC0:
        kind = TEXT
    elif 0xC4 <= lead <= 0xC6:
        width, kind = 1 << (lead - 0xC4), BYTES
    elif 0xCC <= lead <= 0xD3:
        width, kind = 1 << (lead & 3), INTEGER
    elif 0xD9 <= lead <= 0xDB:
        width, kind = 1 << (lead - 0xD9), TEXT
    elif 0xDC <= lead <= 0xDD:
        width, kind = 2 << (lead - 0xDC), ARRAY
    if kind == BAD or body + width > end:
        return BAD, 0, end, end
    value = np.uint64(0) if width else np.uint64(lead & 31)
    for i in range(width):
        value = value << np.uint64(8) | np.uint64(data[body + i])
    after = body + width
    if kind == INTEGER:
        if signed:
            unused = np.int64(64) - 8 * width
            return INTEGER, np.int64(value << np.uint64(unused)) >> unused, after, after
        # an unsigned one that is too large looks negative
        return INTEGER if np.int64(value) >= 0 else BAD, np.int64(value), after, after
    if kind == ARRAY:
        return ARRAY, np.int64(value), after, after
    if np.int64(value) > end - after:
        return BAD, 0, end, end
    return kind, np.int64(value), after, after + np.int64(value)
