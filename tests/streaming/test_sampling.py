"""Sampling: which rows stay, and that what is learned from them, corrected, is what all rows would have said."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streaming.blocks import BlockMaker
from streaming.counts import Counts
from streaming.emission import Emission
from streaming.heads import pack
from streaming.join import Join
from streaming.late import MemoryStore
from streaming.sampling import STRETCH, RunningMean, Scored, draws
from streaming.waiting import Arrival
from tests.streaming.make import RULES, action, head, sampler

SCORES = (0.1, 0.0, 0.2, 0.0, 0.9, 0.0)  # of click and like, for each of three impressions


def mean_with(chosen, log, offset=0):
    """The mean for a log once it was noted."""
    chosen.note(chosen.score(offset, [log]))
    return chosen.mean(offset)


def test_without_sampling_every_row_stays():
    chosen = sampler()
    assert not chosen.active
    assert chosen.probabilities(head("r", 0, scores=SCORES), 1.0) == [1.0] * 3


def test_the_score_decides_within_its_bounds():
    chosen = sampler(mode="score", rate=0.5, floor=0.3)
    log = head("r", 0, scores=SCORES)
    mean = mean_with(chosen, log)
    assert mean == pytest.approx(0.4)
    assert chosen.probabilities(log, mean) == pytest.approx([0.3, 0.3, 1.0])


def test_the_score_of_another_task_may_be_named():
    log = head("r", 0, items=(1, 2), scores=(0.9, 0.1, 0.9, 0.3))
    chosen = sampler(mode="score", rate=0.5, floor=0.01, score_task="like")
    assert chosen.probabilities(log, mean_with(chosen, log)) == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("scores", [(), (float("nan"),) * 6, (0.0,) * 6])
def test_where_nothing_was_scored_everything_stays(scores):
    chosen = sampler(mode="score", rate=0.1, floor=0.1)
    log = head("r", 0, scores=scores)
    assert chosen.probabilities(log, mean_with(chosen, log)) == [1.0] * 3


def noted(mean, averages, start=0):
    for offset, average in enumerate(averages, start):
        mean.note(Scored(offset, average, 1))
    return mean


def test_the_mean_is_that_of_the_stretch_before():
    mean = noted(RunningMean(), [0.2] * STRETCH + [0.8] * STRETCH + [0.5])
    assert mean.at(STRETCH) == pytest.approx(0.2)
    assert mean.at(2 * STRETCH - 1) == pytest.approx(0.2)
    assert mean.at(2 * STRETCH) == pytest.approx(0.8)


def test_the_first_stretch_goes_by_its_own_messages_up_to_each():
    mean = noted(RunningMean(), [0.2, 0.4, 0.9])
    assert [mean.at(o) for o in range(3)] == pytest.approx([0.2, 0.3, 0.5])


def test_whoever_reads_from_the_stretch_before_has_the_same_mean_to_the_bit():
    rng = random.Random(1)
    scores = [rng.random() for _ in range(5 * STRETCH)]
    whole, later = noted(RunningMean(), scores), RunningMean()
    noted(later, scores[3 * STRETCH :], 3 * STRETCH)
    noted(
        later, scores[2 * STRETCH : 3 * STRETCH + 9], 2 * STRETCH
    )  # some of them again, and after the others
    offsets = range(3 * STRETCH + 5, 5 * STRETCH, 7)
    assert [whole.at(o) for o in offsets] == [later.at(o) for o in offsets]
    assert len(whole._stretches) == 2, "no more than it needs is kept"


def test_scores_that_are_no_numbers_leave_the_mean_alone():
    chosen = sampler(mode="score", rate=0.5, floor=0.1)
    chosen.note(chosen.score(0, [head("r", 0, items=(1,), scores=(0.4, 0.0))]))
    chosen.note(chosen.score(1, [head("r", 0, items=(1,), scores=(float("nan"), 0.0))]))
    assert chosen.mean(2) == pytest.approx(0.4)


def test_draws_depend_on_the_place_alone_and_are_uniform():
    assert draws(1, 2, 3, 4) == draws(1, 2, 3, 4)
    assert len({draws(*place, 1)[0] for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4
    values = np.array([d for offset in range(2000) for d in draws(0, offset, 0, 10)])
    assert np.histogram(values, 10, (0, 1))[0].tolist() == pytest.approx([2000] * 10, rel=0.1)


def test_every_row_says_with_what_probability_it_stayed():
    chosen = sampler(mode="score", rate=0.5, floor=0.25)
    join = Join(0, RULES, chosen, MemoryStore(10), Counts())
    log = head("r", 0, scores=SCORES)
    chosen.note(chosen.score(0, [log]))
    join.open([(pack(log), log, 0)], 0)
    join.act(Arrival(action("r", 1, 10), 7, 0, 0))
    join.advance(10_000)
    (emission,) = [e for e in join.emitted if isinstance(e, Emission)]
    block = BlockMaker(0, RULES.tasks, chosen).make(emission, 0, 0)
    said = dict(zip(block.row_indices().tolist(), np.exp(np.frombuffer(block.log_keep, "<f4")), strict=True))
    assert said[0] == pytest.approx(0.25), "a positive, too"
    assert said[2] == pytest.approx(1.0)
    assert np.frombuffer(block.scores, "<f4").tolist() == pytest.approx(
        [s for row in said for s in SCORES[2 * row : 2 * row + 2]]
    )


# --- calibration on simulated data: 2 % of rows engaged, click and like conditional on that

ROWS = 400_000
TRUE = np.array([0.9, -0.7, 0.5])
CONDITIONAL = {"click": np.array([0.6, 0.4, -0.5]), "like": np.array([-0.8, 0.3, 0.6])}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fit(x, y, weight=None, offset=0.0):
    """Logistic regression by Newton's method: parameters with the intercept first."""
    x = np.column_stack([np.ones(len(x)), x])
    weight = np.ones(len(x)) if weight is None else weight
    beta = np.zeros(x.shape[1])
    rate = np.average(y, weights=weight)
    beta[0] = np.log(rate / (1 - rate)) - np.mean(offset)  # Newton's method needs to begin nearby
    for _ in range(30):
        p = sigmoid(x @ beta + offset)
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(hessian, x.T @ (weight * (y - p)))
        beta += step
        if abs(step).max() < 1e-9:
            break
    return beta


def predict(beta, x):
    return sigmoid(beta[0] + x @ beta[1:])


class World:
    """Simulated impressions, what happened on them, and which rows a sampler with target 0.1 kept."""

    def __init__(self, seed, rate=0.1, noise=0.5):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(ROWS, 3))
        self.p = sigmoid(self.x @ TRUE - 4.75)
        self.engaged = rng.random(ROWS) < self.p
        self.conditional = {t: sigmoid(self.x @ w) for t, w in CONDITIONAL.items()}
        self.labels = {t: self.engaged & (rng.random(ROWS) < p) for t, p in self.conditional.items()}
        # what was served came of an older, noisier model
        served = sigmoid(self.x @ TRUE - 4.75 + rng.normal(scale=noise, size=ROWS))
        chosen = sampler(mode="score", rate=rate, floor=rate / 5)
        pi = []
        kept = []
        for start in range(0, ROWS, 1000):
            some = served[start : start + 1000]
            log = head("r", 0, items=range(len(some)), scores=np.column_stack([some, some]).ravel())
            probabilities = chosen.probabilities(log, mean_with(chosen, log, start // 1000))
            pi += probabilities
            kept += [
                d < p for d, p in zip(draws(0, seed * ROWS + start, 0, len(some)), probabilities, strict=True)
            ]
        self.pi = np.array(pi)
        self.kept = np.array(kept) | self.engaged


@pytest.fixture(scope="module")
def world():
    return World(1)


def test_the_corrected_engaged_head_and_all_products_are_calibrated(world):
    assert world.engaged.mean() == pytest.approx(0.02, rel=0.15)
    assert world.kept.mean() < 0.2
    rows = world.kept
    beta = fit(world.x[rows], world.engaged[rows], offset=-np.log(world.pi[rows]))
    engaged = predict(beta, world.x)
    assert engaged.mean() / world.engaged.mean() == pytest.approx(1, abs=0.02)
    for labels in world.labels.values():
        of = world.engaged
        product = engaged * predict(fit(world.x[of], labels[of]), world.x)
        assert product.mean() / labels.mean() == pytest.approx(1, abs=0.02)


def test_uncorrected_it_is_off_by_the_predicted_factor():
    """With a constant pi the odds are off by 1 / pi, and the mean prediction by what that does to each row."""
    world = World(2)
    rate = 0.1
    rows = world.engaged | (np.random.default_rng(0).random(ROWS) < rate)
    plain = predict(fit(world.x[rows], world.engaged[rows]), world.x)
    expected = world.p / (world.p + (1 - world.p) * rate)
    assert plain.mean() / expected.mean() == pytest.approx(1, abs=0.02)
    assert plain.mean() / world.p.mean() > 5


def test_positives_at_probability_one_overpredict(world):
    """Stating pi = 1 for positives, which always stay, is the mistake to avoid."""
    rows = world.kept
    wrong = np.where(world.engaged, 1.0, world.pi)[rows]
    beta = fit(world.x[rows], world.engaged[rows], offset=-np.log(wrong))
    factor = predict(beta, world.x).mean() / world.p.mean()
    assert factor > 1.1


def test_the_correction_errs_less_than_inverse_weighting():
    """Root mean square distance to the logits that all rows give, over several worlds; one row in 100 stays."""
    errors = {"corrected": [], "weighted": []}
    for seed in range(3, 8):
        world = World(seed, rate=0.01, noise=1.5)
        rows = world.kept
        x, y, pi = world.x[rows], world.engaged[rows], world.pi[rows]
        whole = fit(world.x, world.engaged)
        fits = {
            "corrected": fit(x, y, offset=-np.log(pi)),
            "weighted": fit(x, y, weight=np.where(y, 1.0, 1 / pi)),
        }
        for name, beta in fits.items():
            errors[name].append(
                np.mean((np.column_stack([np.ones(ROWS), world.x]) @ (beta - whole)) ** 2) ** 0.5
            )
    assert np.mean(errors["corrected"]) < np.mean(errors["weighted"])
