"""Randomness by number: the same draw for the same (seed, purpose, counters), whatever else is drawn.

Pure, and vectorised: a batch of visits gets what each would have got alone.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
_U64 = NDArray[np.uint64]

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_TO_UNIT: Final = 2.0**-53


class Purpose(IntEnum):
    """What a draw is for, so that no two uses share their randomness."""

    WORLD = 0
    USER = 1
    SURFACE = 2
    CLICK = 3
    WATCH = 4
    LIKE = 5
    DELAY = 6
    ARM = 7
    TICK = 8
    REGION = 9


def uniform(seed: int, purpose: Purpose, *counters: ArrayLike) -> F64:
    """Draws from [0, 1), one for each row of `counters`, integers from 0 up that broadcast to one shape.

    A chain of splitmix64's finaliser (Steele et al., OOPSLA 2014) over seed, purpose and counters.
    """
    state = _mixed(np.array([seed], np.uint64) + _STEP * np.array([purpose + 1], np.uint64))
    for counter in counters:
        state = _mixed(state ^ (np.atleast_1d(counter).astype(np.uint64) * _STEP + _STEP))
    return np.asarray((state >> np.uint64(11)) * _TO_UNIT, np.float64)


def _mixed(state: _U64) -> _U64:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
