"""What earlier owners of a partition did, out of the samples and both input topics into a late store. Pure.

The samples topic is the truth of what was emitted. A new owner reads it from the time at which its oldest
unacknowledged feature log came, before it closes anything, so that it neither repeats nor contradicts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from schema.records import ActionBatch, Heartbeat, SampleBlock
from streaming import cells
from streaming.heads import Log
from streaming.late import FIRST, LateStore
from streaming.request import State
from streaming.sampling import Sampler, Scored
from streaming.waiting import Arrival


class Recalled(NamedTuple):
    """What a new owner has to know besides the store.

    `scored`: what the running mean has to know of earlier feature logs. `closed_below`: requests of feature
    logs below it were closed; rows of which no block speaks were dropped by sampling.
    """

    scored: Sequence[Scored]
    closed_below: int


def absorb_blocks(store: LateStore, blocks: Iterable[SampleBlock]) -> int:
    """Let `store` know what `blocks` say was emitted; those that it knows of change nothing.

    Returns:
        The feature log below which they say that everything on time was emitted, 0 if they say nothing.
    """
    closed_below = 0
    for block in blocks:
        source = block.source
        if block.late_offset < 0:
            closed_below = max(closed_below, block.resolved_below)
        state = store.state(block.request_id)
        if state is None:
            state = State(source.offset, source.index, block.event_time)
        elif (state.offset, state.index) != (source.offset, source.index):
            continue
        tasks = len(block.tasks)
        spoken, hits = cells.from_flags(block.mask), cells.from_labels(block.labels)
        rows = block.row_indices().tolist()
        # of the labels emitted before, the mask of their own block speaks
        state.add(cells.scatter(hits & spoken, rows, tasks), cells.scatter(spoken, rows, tasks))
        store.put_state(block.request_id, state)
    store.flush()
    return closed_below


def absorb_logs(store: LateStore, sampler: Sampler, offset: int, logs: Iterable[Log], low: int = 0) -> None:
    """Let `store` know the closed feature logs of the message at `offset`.

    Args:
        store: what learns of them.
        sampler: has seen the messages before; it gives each request the mean of its close.
        offset: where the message lies.
        logs: its records.
        low: messages below it are in the store, and of interest to the sampler only.
    """
    logs = list(logs)
    sampler.note(sampler.score(offset, [head for _, head, _ in logs]) if sampler.by_score else None)
    if offset < low:
        return
    mean = sampler.mean(offset)
    for packed, head, index in logs:
        state = store.state(head.request_id)
        if state is None:  # sampling left nothing of it
            state = State(offset, index, head.event_time)
        elif (state.offset, state.index) != (offset, index):
            continue
        state.mean, state.log = mean, packed
        store.put_state(head.request_id, state)


def orphans(
    store: LateStore, below: int, offset: int, records: Iterable[ActionBatch | Heartbeat]
) -> Iterator[Arrival]:
    """The acknowledged actions of the message at `offset` that may not have been joined yet.

    Args:
        store: knows the closed requests.
        below: the requests of feature logs below this offset had all the actions that came before them.
        offset: where the message lies.
        records: what it holds.
    """
    for position, record in enumerate(records):
        if isinstance(record, Heartbeat):
            continue
        for action in record.actions:
            state = store.state(action.request_id)
            if state is None or state.offset >= below:
                yield Arrival(action, record.user_id, offset, position)


def found(store: LateStore) -> Iterator[str]:
    """The closed requests that have parked actions in `store`."""
    place = store.next_group(FIRST)
    while place is not None:
        if store.state(place.request_id) is not None:
            yield place.request_id
        place = store.next_group(place)
