"""What of a partition's two topics may be acknowledged, and what may be called resolved. Pure; knows offsets.

An action is acknowledged with its request. A feature log waits for the actions that spoke of its request:
whoever reads on from the acknowledged offsets and meets such an action finds its feature log, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from streaming.acks import OffsetTracker
from streaming.register import Gone
from streaming.request import Request
from streaming.watermark import Side


class Ledger:
    """The messages read and not acknowledged, of both topics."""

    def __init__(self) -> None:
        self._unacked: tuple[OffsetTracker, OffsetTracker] = (OffsetTracker(), OffsetTracker())
        self._unsent = OffsetTracker()
        self._last_action: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(len(t) for t in self._unacked)

    def end(self, side: Side) -> int:
        """The offset after the last message that came, 0 before the first."""
        return self._unacked[side].end

    @property
    def unsent(self) -> int:
        """Below which feature log everything on time was emitted."""
        self._unsent.take_resolved()
        return self._unsent.low

    @property
    def unacked_action(self) -> int:
        """The lowest action not acknowledged."""
        return self._unacked[Side.ACTIONS].low

    def came(self, side: Side, offset: int, records: int) -> None:
        """A message of so many records that need something."""
        self._unacked[side].add(offset, records)
        if side is Side.FEATURES:
            self._unsent.add(offset, records)

    def emitted(self, offsets: Sequence[int]) -> None:
        """All that these feature logs give on time was emitted, or nothing will be."""
        self._unsent.resolve_all(offsets)

    def passed(self, offset: int) -> None:
        """A record beside the feature logs that nothing comes of."""
        self._unacked[Side.FEATURES].resolve(offset)
        self._unsent.resolve(offset)

    def doubled(self, first: int, offset: int) -> None:
        """The feature log at `offset` is the one at `first` again."""
        self.passed(offset)
        self._unacked[Side.FEATURES].join(first, offset)

    def released(self, offsets: Sequence[int]) -> None:
        """These records of the actions need nothing more."""
        self._unacked[Side.ACTIONS].resolve_all(offsets)

    def lettered(self, side: Side, offset: int) -> None:
        """The dead letter of a record has arrived."""
        self._unacked[side].resolve(offset)

    def owe(self, side: Side, offset: int) -> None:
        """A message is to be acknowledged only after one more `lettered`."""
        self._unacked[side].owe(offset)

    def settled(self, requests: Sequence[Request]) -> None:
        """All that was emitted of these has arrived."""
        gone = Gone([], [])
        for request in requests:
            if request.action_offsets is not None:
                gone.actions.extend(request.action_offsets)
                request.action_offsets = None
            if request.owes_log:
                request.owes_log = False
                gone.logs.append((request.offset, 1, request.last_action))
        self.gone(gone)

    def gone(self, gone: Gone) -> None:
        """All that was emitted of requests has arrived, and that was all there is to them."""
        last_action, logs = self._last_action, self._unacked[Side.FEATURES]
        for offset, count, last in gone.logs:
            if last > last_action.get(offset, -2):
                last_action[offset] = last
            logs.resolve(offset, count)
        self._unacked[Side.ACTIONS].resolve_all(gone.actions)

    def acknowledged(self, *, logs_too: bool = True) -> dict[Side, int]:
        """The offset of each topic below which everything may be acknowledged now, once one has come."""
        logs, actions = self._unacked
        actions.take_resolved()

        def held(offset: int) -> bool:
            last = self._last_action.get(offset)
            return last is not None and not (logs_too and last < actions.low)

        for offset in logs.take_resolved(held):
            self._last_action.pop(offset, None)
        return {side: tracker.low for side, tracker in zip(Side, self._unacked, strict=True) if tracker.end}
