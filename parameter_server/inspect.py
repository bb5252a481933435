"""What there is to know of one id, for a person who asks why it is served as it is."""

from __future__ import annotations

from parameter_server import messages
from parameter_server.shard import Shard


def inspect_row(shard: Shard, table: str, wanted: int) -> messages.RowIs:
    """The row of id `wanted`, as of one clock.

    Raises:
        InvalidRequest: an unknown table.
    """
    found = shard.row_of(table, wanted)
    state = found.state
    has_row = state.row >= 0
    return messages.RowIs(
        clock=found.clock,
        epoch=shard.epoch,
        row=state.row if has_row else None,
        width=state.width,
        version=state.version if has_row else None,
        removed_at=found.removed_at,
        state_norm=state.state_norm if has_row else None,
        uses=state.uses,
        sightings=state.sightings,
        last_use=state.last_use if has_row else None,
        expires_at=state.expires_at,
        vector=found.vector,
    )
