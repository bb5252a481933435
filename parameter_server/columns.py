"""Rows as values, away from their table: what deltas and checkpoints are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schema.records import F32, I64, U64


@dataclass(slots=True)
class Columns:
    """n rows: ids (n,), vectors (n, dim), versions (n,), optimizer state (n, s), last use (n,).

    A row whose width is below dim has zeros behind it; its state is laid out for its own width, with zeros
    behind that too. `last_use` is the event time in milliseconds of a row's last push, in whole seconds
    rounded up; `uses` uint32 (n,) counts pushes, in tables with several widths; `widths` is uint16 (n,).
    """

    ids: U64
    vectors: F32
    versions: U64
    state: F32
    last_use: I64
    uses: NDArray[np.uint32]
    widths: NDArray[np.uint16]
