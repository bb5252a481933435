"""Rows that grow in width on the shards: what the replica answers keeps its bits, however it holds rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from models.dense import dump_payload
from models.mmoe import MMoE
from schema.config import Config, ReplicaRows
from schema.ids import feature_id
from tests.serving.parts import CONFIG, TABLE, Stage, item, video_ids

ITEMS = list(range(100, 130))
USER = feature_id(1, 7)
NARROW, GROW_AT = 4, 3


def growing(form: ReplicaRows) -> Config:
    server = CONFIG.parameter_server
    table = next(t for t in server.tables if t.name == TABLE)
    table = msgspec.structs.replace(table, widths=(NARROW, table.dim), grow_at=(GROW_AT,), init_scale=0.5)
    server = msgspec.structs.replace(
        server, tables=tuple(table if t.name == TABLE else t for t in server.tables), replica_rows=form
    )
    return msgspec.structs.replace(CONFIG, parameter_server=server)


def trained(config: Config) -> bytes:
    """Dense weights of which all matter, the projections' too."""
    torch.manual_seed(8)
    model = MMoE.of(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    assert len(model.projections) == len(config.features.slots)
    return dump_payload(model)


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
def test_growth_changes_no_bit_of_a_feed(form: ReplicaRows) -> None:
    stage = Stage(growing(form))
    stage.learn(*[item(i) for i in ITEMS])
    ids = [*video_ids(ITEMS), USER]
    for step in range(1, GROW_AT):
        stage.shards.push(step, ids, 1.0)
    stage.shards.publish(4, payload=trained(stage.replica.config))

    def served() -> np.ndarray:
        stage.replica.sync.run_round()
        digests = {(d.shard, d.digest) for d in stage.replica.parameters.digests() if d.table == TABLE}
        assert digests == {(s.index, s.digest(TABLE)[1]) for s in stage.shards.shards}
        feed = stage.replica.feeds.feed(7, 1, len(ITEMS))
        return feed.scores[np.argsort(feed.items)]

    def widths() -> set[int]:
        rows = [shard.row_of(TABLE, i) for i in ids for shard in stage.shards.shards]
        return {row.state.width for row in rows if row.state.row >= 0}

    before = served()
    assert len(np.unique(before[:, 0])) > 1
    assert widths() == {NARROW}
    stage.shards.push(GROW_AT, ids, 0.0)  # changes nothing but the count of pushes
    assert widths() == {stage.replica.config.parameter_server.tables[0].dim}
    assert np.array_equal(served().view(np.uint32), before.view(np.uint32))
    stage.shards.push(GROW_AT + 1, ids, 1.0)
    assert not np.array_equal(served(), before)
