"""What a log of very uneven odds teaches, through the join and the trainer: with weights the truth, without not.

Half of the users click more than the others, which no feature says. A policy that knows shows them the items that
are worse, and the others those that are better, now and then the other way round. So in the log the worse items
look the better ones. Counted by one over the odds of having been shown, all users are behind every item alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.batch import Collator
from models.heads import Heads
from schema.codec import FEATURE_LOGS, TRAINING_SAMPLES, USER_ACTIONS
from schema.ids import feature_id
from schema.records import ActionBatch, FeatureLog, Features, IdColumn, ModelVersion, column
from streaming.late import MemoryStore
from tests.streaming.make import WINDOW, action
from tests.streaming.test_partition import Bench
from tests.trainer.test_loop import envelopes, world

F64 = NDArray[np.float64]

ODDS: Final = np.array([[0.02, 0.08, 0.3, 0.6], [0.6, 0.3, 0.08, 0.02]])
"""How likely each item is shown to either kind of users, who are equally many."""
CLICKS: Final = np.array([[0.8, 0.7, 0.6, 0.5], [0.4, 0.3, 0.2, 0.1]])
"""How likely they click it then."""
ITEMS: Final = ODDS.shape[1]
REQUESTS: Final = 40_000
LATE: Final = 0.2
"""The share of clicks that come after their request has closed."""


def expected(clip: float) -> F64:
    """The click rate of each item, (ITEMS,), where rows count by one over their odds, but at most `clip`."""
    mass = ODDS * np.minimum(1 / ODDS, clip)
    return (mass * CLICKS).sum(axis=0) / mass.sum(axis=0)


def features(items: Sequence[int]) -> Features:
    """What the model sees of a request that shows these: nothing of who asks."""
    return Features(
        (IdColumn(1, column([feature_id(1, 7)], "<u8")),),
        (IdColumn(2, column([feature_id(2, item) for item in items], "<u8")),),
        item_dense=column([0.0] * len(items), "<f4"),
    )


def feature_log(number: int, item: int, odds: float) -> FeatureLog:
    one = (column([item], "<i8"), column([0], "<u2"), features([item]))
    return FeatureLog(
        f"r{number}", 7, 1000 + number, 0, ModelVersion(), *one, propensities=column([odds], "<f4")
    )


def joined(seed: int, **sampling: object) -> list[bytes]:
    """Messages of sample blocks, as the joiner's core makes them of such a log."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, REQUESTS)
    items = (rng.random(REQUESTS)[:, None] >= np.cumsum(ODDS[kinds], axis=1)[:, :-1]).sum(axis=1)
    clicked = rng.random(REQUESTS) < CLICKS[kinds, items]
    late = rng.random(REQUESTS) < LATE
    odds = ODDS[kinds, items]
    logs = [feature_log(i, int(items[i]), float(odds[i])) for i in range(REQUESTS)]
    acted = sorted((1000 + i + (3 * WINDOW if late[i] else 1), i) for i in np.flatnonzero(clicked).tolist())
    actions = [ActionBatch(7, (action(f"r{i}", time, int(items[i])),)) for time, i in acted]
    bench = Bench(envelopes(logs, 100, FEATURE_LOGS), envelopes(actions, 100, USER_ACTIONS), **sampling)
    bench.restart(MemoryStore(REQUESTS))
    bench.finish()
    assert sum(b.late_offset >= 0 for b in bench.samples) > REQUESTS * LATE / 4
    return envelopes(bench.samples, 100)


def learned(folder: Path, messages: list[bytes], clip: float | None, engaged: str | None = None) -> F64:
    """The click rate of each item that the trainer predicts, (ITEMS,), on average over what lies between.

    At first it has learned nothing, and at the end come late clicks alone.
    """
    settings = {"batch_rows": 128, "learning_rate": 0.005, "baseline": False, "recovery_seconds": 1e6}
    said = []
    with world(folder, {0: messages, 1: []}, learning=True, propensity_clip=clip, **settings) as it:
        model = msgspec.structs.replace(it.config.model, engaged=engaged)
        it.config = msgspec.structs.replace(it.config, model=model)
        batch = Collator(it.config.features).collate([features(range(ITEMS))], [ITEMS])
        heads, trainer = Heads.of(it.config), it.start()
        while trainer.advance():
            vectors = {name: torch.from_numpy(it.server.pull(name, ids)) for name, ids in batch.ids.items()}
            with torch.no_grad():
                said.append(heads.served(trainer._learner.model(batch, vectors))[:, 0].numpy())
    return np.mean(said[len(said) // 2 : len(said) * 7 // 8], axis=0)


@pytest.fixture(scope="module", params=[{}, {"mode": "uniform", "rate": 0.4}], ids=["whole", "sampled"])
def log(request: pytest.FixtureRequest) -> tuple[list[bytes], str | None]:
    """The samples of such a log, all of them or with few of those that nobody clicked, and the head for that."""
    return joined(2, **request.param), "click" if request.param else None


@pytest.mark.parametrize("clip", [None, 4.0, 1000.0])
def test_what_is_learned_is_what_the_weights_make_of_the_log(tmp_path, log, clip):
    """Unweighted it is the rate among those to whom an item was shown, unclipped that of all, clipped between."""
    found, truth = learned(tmp_path, log[0], clip, log[1]), CLICKS.mean(axis=0)
    assert found == pytest.approx(expected(clip or 1.0), abs=0.035)
    if clip == 1000:
        assert found == pytest.approx(truth, abs=0.035)
        assert (np.diff(found) < 0).all(), "the better item is found to be the better one"
    else:
        assert np.abs(found - truth).min() > 0.07
        assert found[:2].max() < found[2:].min(), "the worse items look the better ones"


def test_a_log_without_propensities_is_learned_as_it_is(tmp_path):
    """It may be that no server said them, or another one's: nothing is weighted, to the bit."""
    records = [r for message in joined(4)[:60] for r in TRAINING_SAMPLES.decode(message)]
    silent = envelopes([msgspec.structs.replace(r, propensities=b"") for r in records], 100)
    told = envelopes(records, 100)
    unweighted = learned(tmp_path / "a", told, None)
    assert (learned(tmp_path / "b", silent, 1000.0) == unweighted).all()
    assert (learned(tmp_path / "c", told, 1000.0) != unweighted).any()
