"""What there is to know of one id, for a person who asks why it is served as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parameter_server import messages
from parameter_server.shard import Shard

_KNOWN = ("ids", "vectors", "versions", "last_use")


def inspect_row(shard: Shard, table: str, wanted: int) -> messages.RowIs:
    """The row of id `wanted`, as of one clock; the optimizer's state is every column that is nothing else.

    Raises:
        InvalidRequest: an unknown table.
    """
    found = shard.row_of(table, wanted)
    if found.row is None:
        return messages.RowIs(
            found.clock, shard.epoch, None, 0, None, found.removed_at, {}, None, found.first
        )
    columns = found.columns
    state = {name: _norm(values) for name, values in columns.items() if name not in _KNOWN}
    last_use = columns.get("last_use")
    vector = columns["vectors"][0]
    return messages.RowIs(
        found.clock,
        shard.epoch,
        found.row,
        len(vector),
        int(columns["versions"][0]),
        found.removed_at,
        state,
        None if last_use is None else int(last_use[0]),
        [float(value) for value in vector],
    )


def _norm(values: NDArray[Any]) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
