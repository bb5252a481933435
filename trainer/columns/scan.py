"""Reads messages into blocks, many at once. Knows the wire's form, not where messages come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schema.codec import TRAINING_SAMPLES, envelope_body
from schema.records import I64, SampleBlock
from trainer.columns import blake2, kernels
from trainer.columns import layout as at_
from trainer.columns.blocks import Blocks
from trainer.columns.layout import Form


def read(form: Form, bodies: Sequence[bytes | memoryview], *, any_text: bool = False) -> tuple[Blocks, I64]:
    """The blocks of messages, one after the other, and how many each has; -1 where the codec has to read it.

    Args:
        form: what blocks have to be.
        bodies: what follows the messages' checksums.
        any_text: whether texts that are not ASCII are known to be sound.
    """
    data = np.frombuffer(b"".join(bodies), "u1")
    bounds = np.zeros(len(bodies) + 1, np.int64)
    np.cumsum([len(body) for body in bodies], out=bounds[1:])
    room = kernels.promised(data, bounds)
    table = np.empty((room, at_.FIELDS), np.int64)
    slots = np.zeros((room, len(form.numbers), at_.SLOT_FIELDS), np.int64)
    counts = np.empty(len(bodies), np.int64)
    found = kernels.walk(
        data,
        bounds,
        form.numbers,
        form.contexts,
        form.tasks,
        form.task_count,
        form.context_dense,
        form.item_dense,
        any_text,
        table,
        slots,
        counts,
    )
    table = table[:found]
    traces = np.empty(found, np.int64)
    starts, sizes = (np.ascontiguousarray(table[:, f]) for f in (at_.AT_REQUEST_ID, at_.REQUEST_ID_SIZE))
    blake2.traces(data, starts, sizes, traces)
    table[:, at_.TRACE] = traces
    return Blocks(form, data, table, slots[:found]), counts


def encoded(form: Form, blocks: Sequence[SampleBlock]) -> Blocks:
    """Sound `blocks`, whose numbers are below 2 ** 63, in columns."""
    found, counts = read(form, [envelope_body(TRAINING_SAMPLES.encode(blocks))], any_text=True)
    assert counts[0] >= 0, "a sound block was not read"  # noqa: S101 - the codec writes what is read here
    return found


def replaced(single: Blocks, record: SampleBlock) -> Blocks:
    """One block with the content of `record`, where `single` lay and emitted when it was."""
    found = encoded(single.form, [record])
    kept = [at_.JOINED_AT, at_.MESSAGE, at_.WITHIN, at_.LAST]
    found.table[0, kept] = single.table[0, kept]
    return found
