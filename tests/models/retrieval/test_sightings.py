"""Sightings against a dictionary of times."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.sightings import Sightings

STEPS = st.lists(st.tuples(st.integers(0, 400), st.sets(st.integers(0, 9)), st.integers(0, 3)), max_size=30)


@settings(max_examples=200)
@given(steps=STEPS, expiry=st.integers(1, 200), restarts=st.sets(st.integers(0, 29)))
def test_rows_expire_once_their_last_sighting_is_too_long_ago(steps, expiry, restarts):
    sightings, seen, rows, now, looked = Sightings(expiry / 1000), {}, 0, 0, None
    for number, (at, shown, more) in enumerate(steps):
        now, rows = max(now, at), max([rows + more, *[row + 1 for row in shown]])
        seen |= {row: now for row in range(rows) if row in shown or row not in seen}
        sightings.note(np.array(sorted(shown), np.int64), rows, at)
        if number in restarts:
            saved, sightings = sightings.saved(), Sightings(expiry / 1000)
            sightings.restore(saved)
        late = looked is not None and now < looked + max(1, expiry // 16)
        wanted = [] if late else [row for row in range(rows) if seen[row] < now - expiry]
        looked = looked if late else now
        assert sightings.expired().tolist() == wanted
