"""What logits mean and what rows teach, against the probabilities written out."""

from __future__ import annotations

import pytest
import torch

from models.heads import Heads, Targets
from models.losses import propensity_weights, row_weights


def targets(labels: list[list[float]], mask: list[list[float]], log_keep: list[float]) -> Targets:
    return Targets(*(torch.tensor(values, dtype=torch.float32) for values in (labels, mask, log_keep)))


def test_independent_heads_serve_their_sigmoid():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Heads().served(logits), torch.sigmoid(logits))


def test_conditional_heads_serve_the_product():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    p = torch.sigmoid(logits)
    want = torch.stack([p[:, 0] * p[:, 1], p[:, 1], p[:, 2] * p[:, 1]], dim=1)
    torch.testing.assert_close(Heads(engaged=1).served(logits), want)


def test_first_predictions_are_the_served_rates():
    heads = Heads(engaged=0)
    priors = torch.tensor([heads.priors([0.4, 0.1, 0.02])])
    torch.testing.assert_close(heads.served(torch.logit(priors)), torch.tensor([[0.4, 0.1, 0.02]]))


def test_only_engaged_rows_teach_the_conditional_heads():
    logits = torch.zeros(3, 2, requires_grad=True)
    # not engaged; engaged; of an engaged row whose engagement was trained before
    rows = targets([[0, 0], [1, 0], [0, 1]], [[1, 1], [1, 1], [0, 1]], [0, 0, 0])
    Heads(engaged=0).loss(logits, rows).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad * 3, torch.tensor([[0.5, 0.0], [-0.5, 0.5], [0.0, -0.5]]))


def test_an_engaged_head_learned_from_sampled_negatives_serves_the_true_rate():
    rng = torch.Generator().manual_seed(3)
    truth = 0.1
    engaged = torch.rand(200_000, generator=rng) < truth
    keep = torch.where(torch.rand(200_000, generator=rng) < 0.5, 0.2, 0.6)
    sampled = engaged | (torch.rand(200_000, generator=rng) < keep)
    labels, log_keep = engaged[sampled].float().unsqueeze(1), keep[sampled].log()
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=50)
    heads, rows = Heads(engaged=0), Targets(labels, torch.ones_like(labels), log_keep)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = heads.loss(bias.expand(len(labels), 1), rows)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(torch.sigmoid(bias.detach())) == pytest.approx(truth, rel=0.02)


def test_weights_count_rows():
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0.0, 1.0]] * 4)
    every = torch.ones(4, 2)
    weighted = Targets(labels, every, torch.zeros(4), torch.tensor([2.0, 0.0, 1.0, 1.0]))
    twice = torch.cat([logits[:1], logits[:1], logits[2:]])
    plain = Heads().loss(twice, Targets(labels, every, torch.zeros(4)))
    torch.testing.assert_close(Heads().loss(logits, weighted), plain)


def test_propensity_weights_are_clipped_and_sum_to_the_rows():
    weights = propensity_weights(torch.tensor([0.5, 0.25, 0.001]), clip=10)
    torch.testing.assert_close(weights, torch.tensor([2.0, 4.0, 10.0]) * 3 / 16)


@pytest.mark.parametrize(
    ("propensities", "clip", "text"),
    [
        ([0.0], 10, "propensities"),
        ([1.5], 10, "propensities"),
        ([float("nan")], 10, "propensities"),
        ([0.5], 0.5, "clip: 0.5"),
    ],
)
def test_propensities_out_of_bounds_are_refused(propensities, clip, text):
    with pytest.raises(ValueError, match=text):
        propensity_weights(torch.tensor(propensities), clip)


def test_rows_without_a_propensity_weigh_1_and_change_no_other():
    weights = row_weights(torch.tensor([0, 0.5, 0.25, 0, 0.001, 0]), clip=10)
    torch.testing.assert_close(
        weights, torch.tensor([1, 6, 12, 1, 30, 1]) / torch.tensor([1, 16, 16, 1, 16, 1])
    )
    assert float(weights.sum()) == pytest.approx(6)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, float("nan")])
def test_one_of_many_propensities_out_of_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match="propensities"):
        row_weights(torch.tensor([0.5, 0, wrong]), clip=10)


def fitted(heads: Heads, rows: Targets, tasks: int) -> torch.Tensor:
    """The served probabilities of a model that knows one constant a task, at the minimum of the loss."""
    constants = torch.zeros(tasks, requires_grad=True)
    optimizer = torch.optim.LBFGS([constants], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = heads.loss(constants.expand(len(rows.labels), tasks), rows)
        loss.backward()
        return loss

    optimizer.step(closure)
    return heads.served(constants.detach().unsqueeze(0))[0]


def late(labels: list[list[float]], mask: list[list[float]], retract: list[list[float]]) -> Targets:
    return Targets(
        torch.tensor(labels), torch.tensor(mask), torch.zeros(len(labels)), retract=torch.tensor(retract)
    )


def test_late_positives_that_take_their_negative_back_leave_the_model_calibrated() -> None:
    """Of 1,000 rows 200 are positive, 80 of them late: those were trained as negatives first."""
    labels = [[1.0]] * 120 + [[0.0]] * 880 + [[1.0]] * 80
    retract = [[0.0]] * 1000 + [[1.0]] * 80
    every = [[1.0]] * 1080
    assert float(fitted(Heads(), late(labels, every, retract), 1)) == pytest.approx(0.2, abs=1e-4)
    biased = late(labels, every, [[0.0]] * 1080)
    assert float(fitted(Heads(), biased, 1)) == pytest.approx(200 / 1080, abs=1e-4)


def test_a_row_that_is_engaged_late_begins_to_count_for_the_conditional_heads() -> None:
    """Of 1,000 rows 200 engage, 80 of them late, and half of either kind like what they saw."""
    labels = (
        [[1.0, 1.0]] * 60 + [[1.0, 0.0]] * 60 + [[0.0, 0.0]] * 880 + [[1.0, 1.0]] * 40 + [[1.0, 0.0]] * 40
    )
    mask = [[1.0, 1.0]] * 1000 + [[1.0, 1.0]] * 40 + [[1.0, 0.0]] * 40
    retract = [[0.0, 0.0]] * 1000 + [[1.0, 1.0]] * 40 + [[1.0, 0.0]] * 40
    engaged, like = fitted(Heads(engaged=0), late(labels, mask, retract), 2).tolist()
    assert engaged == pytest.approx(0.2, abs=1e-4)
    assert like == pytest.approx(0.1, abs=1e-4)
