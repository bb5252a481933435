"""The trainer's view of the samples: what is left after its filter, with what was taken back taken back."""

from __future__ import annotations

from collections import Counter

from schema.records import SampleBlock

Label = tuple[str, int, str, float]


class NetView:
    """Applies the contract of docs/events.md: every pair counts once on time, and once for each late action.

    Fails where a block breaks the contract: was it called resolved, it may not bring anything new.
    """

    def __init__(self) -> None:
        self.filtered = 0
        self._had: set[tuple] = set()
        self._floors: Counter[tuple[int, bool]] = Counter()
        self._net: Counter[Label] = Counter()

    def take(self, block: SampleBlock) -> None:
        assert block.problem() is None
        source, late = block.source, block.late_offset >= 0
        place = block.late_offset if late else source.offset
        floor = self._floors[source.partition, late]
        columns = (block.label_matrix(), block.mask_matrix(), block.retract_matrix())
        rows = block.row_indices().tolist()
        for at, item in enumerate(block.item_ids().tolist()):
            for task_at, task in enumerate(block.tasks):
                label, mask, retract = (float(c[at, task_at]) for c in columns)
                if not mask:
                    assert not retract
                    continue
                key = (source, block.late_offset, rows[at], task)
                if key in self._had:
                    self.filtered += 1
                    continue
                assert place >= floor, "it was called resolved before it was emitted"
                self._had.add(key)
                self._net[block.request_id, item, task, label] += 1
                if retract:
                    assert label == 1
                    self._net[block.request_id, item, task, 0.0] -= 1
        self._floors[source.partition, late] = max(floor, block.resolved_below)

    @property
    def labels(self) -> list[Label]:
        """All labels that count, sorted."""
        assert min(self._net.values(), default=0) >= 0, "more was taken back than there was"
        return sorted(self._net.elements())
