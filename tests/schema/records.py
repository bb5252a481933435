"""Hypothesis strategies for every record of the wire."""

from __future__ import annotations

from hypothesis import strategies as st

from schema.records import (
    Action,
    ActionBatch,
    DeadLetter,
    FeatureLog,
    Features,
    Heartbeat,
    IdColumn,
    ModelVersion,
    Profile,
    SampleBlock,
    Source,
    column,
)

ids = st.integers(0, 2**63 - 1)
times = st.integers(0, 2**53 - 1)
floats = st.floats(width=32, allow_nan=False)
odds = st.floats(0, 1, width=32, exclude_min=True)
texts = st.text(max_size=20)


def columns(rows: int) -> st.SearchStrategy[IdColumn]:
    row = st.lists(st.integers(0, 2**64 - 1), max_size=3)
    return st.builds(
        lambda slot, lists: IdColumn(
            slot, column([i for r in lists for i in r], "<u8"), column([len(r) for r in lists], "<u2")
        ),
        st.integers(1, 65535),
        st.lists(row, min_size=rows, max_size=rows),
    )


def features(rows: int) -> st.SearchStrategy[Features]:
    return st.builds(
        Features,
        st.lists(columns(1), max_size=3).map(tuple),
        st.lists(columns(rows), max_size=3).map(tuple),
        st.lists(floats, max_size=2).map(lambda v: column(v, "<f4")),
        st.just(column([0.5] * rows * 2, "<f4")),
    )


def packed(values: st.SearchStrategy[object], dtype: str, count: int) -> st.SearchStrategy[bytes]:
    return st.lists(values, min_size=count, max_size=count).map(lambda v: column(v, dtype))


@st.composite
def feature_logs(draw: st.DrawFn) -> FeatureLog:
    n = draw(st.integers(1, 4))
    return FeatureLog(
        draw(texts),
        draw(ids),
        draw(times),
        draw(st.integers(0, 100)),
        ModelVersion(draw(st.integers(0, 100)), ((draw(times), 3),)),
        draw(packed(ids, "<i8", n)),
        draw(packed(st.integers(0, 65535), "<u2", n)),
        draw(features(n)),
        draw(packed(floats, "<f4", n * 2)),
        draw(st.just(b"") | packed(odds, "<f4", n)),
        draw(st.just(b"") | packed(st.integers(0, 2), "u1", n)),
    )


@st.composite
def sample_blocks(draw: st.DrawFn) -> SampleBlock:
    n, tasks = draw(st.integers(1, 4)), ("click", "like")
    return SampleBlock(
        Source(draw(st.integers(0, 9)), draw(times), draw(st.integers(0, 63))),
        draw(times),
        draw(times),
        draw(texts),
        draw(ids),
        draw(times),
        draw(st.integers(0, 100)),
        tasks,
        draw(packed(st.integers(0, 65535), "<u2", n)),
        draw(packed(ids, "<i8", n)),
        draw(packed(st.integers(0, 65535), "<u2", n)),
        draw(features(n)),
        draw(packed(st.sampled_from([0.0, 1.0]), "<f4", n * 2)),
        draw(packed(st.sampled_from([0, 1]), "u1", n * 2)),
        draw(packed(floats, "<f4", n)),
        draw(st.just(b"") | packed(floats, "<f4", n * 2)),
        draw(st.just(b"") | packed(st.sampled_from([0, 1]), "u1", n * 2)),
        draw(st.just(-1) | times),
        draw(st.just(b"") | packed(odds, "<f4", n)),
    )


actions = st.builds(Action, texts, ids, texts, times, floats)
action_batches = st.builds(ActionBatch, ids, st.lists(actions, max_size=4).map(tuple))
heartbeats = st.builds(Heartbeat, times)
dead_letters = st.builds(
    DeadLetter, texts, st.integers(0, 9), times, st.integers(0, 9), texts, texts, st.binary(max_size=20)
)
profiles = st.builds(
    Profile,
    st.sampled_from(["user", "item"]),
    ids,
    times,
    st.dictionaries(texts, st.lists(st.integers(-5, 2**40) | texts, max_size=3).map(tuple), max_size=3),
    st.dictionaries(texts, floats, max_size=3),
)
