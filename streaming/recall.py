"""What earlier owners of a partition emitted, out of the samples and feature logs into a late store. Pure.

The samples topic is the truth of what was emitted. A new owner reads it from the time at which its oldest
unacknowledged feature log came, before it closes anything, so that it neither repeats nor contradicts it.
"""

from __future__ import annotations

from collections.abc import Iterable

from schema.records import FeatureLog, SampleBlock
from streaming.late import LateStore, pack
from streaming.request import State


def absorb_blocks(store: LateStore, blocks: Iterable[SampleBlock]) -> None:
    """Let `store` know what `blocks` say was emitted; those that it knows of change nothing."""
    for block in blocks:
        source = block.source
        state = store.state(block.request_id)
        if state is None:
            state = State(source.offset, source.index, block.event_time)
        elif (state.offset, state.index) != (source.offset, source.index):
            continue
        tasks = len(block.tasks)
        for at, row in enumerate(block.row_indices().tolist()):
            cells = range(at * tasks, (at + 1) * tasks)
            spoken = sum(1 << task for task, cell in enumerate(cells) if block.mask[cell])
            # an <f4 of 1.0 ends in 0x3f; of the labels emitted before, the mask of their own block speaks
            hits = sum(1 << task for task, cell in enumerate(cells) if block.labels[4 * cell + 3])
            state.spoken[row] = state.spoken.get(row, 0) | spoken
            state.hits[row] = state.hits.get(row, 0) | (hits & spoken)
        store.put_state(block.request_id, state)
    store.flush()


def absorb_logs(store: LateStore, logs: Iterable[tuple[FeatureLog, int, int]]) -> None:
    """Let `store` know closed feature logs: each with its offset and its index in the envelope."""
    for log, offset, index in logs:
        state = store.state(log.request_id)
        if state is None:  # sampling left nothing of it
            store.put_state(log.request_id, State(offset, index, log.event_time))
        elif (state.offset, state.index) != (offset, index):
            continue
        store.put_log(log.request_id, pack(log))
    store.flush()
