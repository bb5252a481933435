"""One step against the same network written out by hand on a dictionary of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from models.batch import Collator
from models.mmoe import MMoE
from schema.records import F32, column
from tests.trainer.fakes import Clock, FakeServer, Killer, first_vectors
from tests.trainer.make import DIM, TASKS, block, config
from trainer.pieces import Piece, PieceRows, piece
from trainer.step import Learner


def pieces() -> list[Piece]:
    masks = ([[1, 1], [1, 0], [0, 1]], [[1, 1]] * 3)
    blocks = [block(i, mask=mask, user=i) for i, mask in enumerate(masks)]
    kept = [piece(b, b.mask) for b in blocks]
    return [p for p in kept if p is not None]


def test_a_step_equals_torch_by_hand():
    settings = config(learning_rate=0.01)
    learner = Learner(settings, FakeServer(Killer(), Clock()))
    rows = pieces()
    labels, mask = PieceRows(rows).labels(), PieceRows(rows).mask()

    oracle = MMoE(settings.model, settings.features, len(TASKS), DIM)
    oracle.load_state_dict(learner.model.state_dict())
    optimizer = torch.optim.Adam(oracle.parameters(), lr=0.01)
    batch = Collator(settings.features).collate([p.features for p in rows], [len(p) for p in rows])
    vectors = torch.from_numpy(first_vectors(batch.ids["embedding"])).requires_grad_()
    logits = oracle(batch, {"embedding": vectors})
    losses = functional.binary_cross_entropy(
        torch.sigmoid(logits), torch.from_numpy(labels), reduction="none"
    )
    (losses * torch.from_numpy(mask)).sum().div(6).backward()
    optimizer.step()

    computed = learner.compute(learner.fetch(PieceRows(rows)), 1)
    learner.apply(6)
    assert computed.gradients is not None
    ids, gradients = computed.gradients["embedding"]
    assert np.array_equal(ids, batch.ids["embedding"])
    assert vectors.grad is not None
    np.testing.assert_allclose(gradients, 6 * vectors.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(computed.predictions, torch.sigmoid(logits).detach().numpy(), atol=1e-6)
    for mine, its in zip(learner.model.parameters(), oracle.parameters(), strict=True):
        # Adam's first step is the learning rate times the gradient's sign, but where that is about zero
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


def test_a_rows_gradient_does_not_depend_on_its_company():
    learner = Learner(config(), FakeServer(Killer(), Clock()))
    first, second = pieces()
    alone = learner.compute(learner.fetch(PieceRows([first])), 1).gradients
    silent = msgspec.structs.replace(second, mask=bytes(len(second.mask)))
    both = learner.compute(learner.fetch(PieceRows([first, silent])), 1).gradients
    assert alone is not None
    assert both is not None
    found = dict(zip(both["embedding"][0].tolist(), both["embedding"][1], strict=True))
    for row, gradient in zip(alone["embedding"][0].tolist(), alone["embedding"][1], strict=True):
        np.testing.assert_allclose(found[row], gradient, rtol=1e-4, atol=1e-7)


def weighed(odds: Sequence[bytes], clip: float | None) -> tuple[F32, F32, F32]:
    """The predictions of a step on `pieces` of those odds, the dense gradients, and the sparse ones."""
    learner = Learner(config(propensity_clip=clip), FakeServer(Killer(), Clock()))
    rows = [msgspec.structs.replace(p, propensities=o) for p, o in zip(pieces(), odds, strict=True)]
    computed = learner.compute(learner.fetch(PieceRows(rows)), 1)
    assert computed.gradients is not None
    dense = [p.grad.numpy().ravel() for p in learner.model.parameters() if p.grad is not None]
    return computed.predictions, np.concatenate(dense), computed.gradients["embedding"][1]


UNEVEN = [column([0.5, 0.25, 0.01], "<f4"), column([1, 0.125, 0.5], "<f4")]


@pytest.mark.parametrize(
    ("odds", "clip"),
    [
        (UNEVEN, None),
        ([b"", b""], 4.0),
        ([column([1, 1, 1], "<f4")] * 2, 4.0),
        ([column([1, 1, 1], "<f4"), b""], 4.0),
    ],
    ids=["not wanted", "not known", "all shown for certain", "some shown for certain"],
)
def test_rows_that_count_alike_teach_what_they_did_to_the_bit(odds, clip):
    for have, want in zip(weighed(odds, clip), weighed([b"", b""], None), strict=True):
        assert have.tobytes() == want.tobytes()


def test_rows_count_by_one_over_their_odds_and_as_the_average_where_these_are_not_known():
    settings = config(propensity_clip=4.0)
    known = msgspec.structs.replace(pieces()[0], propensities=UNEVEN[0])
    unknown = msgspec.structs.replace(pieces()[1], propensities=b"")
    rows = PieceRows([known, unknown])
    learner = Learner(settings, FakeServer(Killer(), Clock()))
    computed = learner.compute(learner.fetch(rows), 1)

    batch = rows.collated(Collator(settings.features))
    vectors = torch.from_numpy(first_vectors(batch.ids["embedding"])).requires_grad_()
    logits = learner.model(batch, {"embedding": vectors})
    labels, mask = torch.from_numpy(rows.labels()), torch.from_numpy(rows.mask())
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * mask
    weights = torch.tensor([0.6, 1.2, 1.2, 1, 1, 1])  # 2, 4 and 4 over their mean, and three that say nothing
    (losses * weights.unsqueeze(1)).sum().backward()
    assert computed.gradients is not None
    assert vectors.grad is not None
    np.testing.assert_allclose(computed.gradients["embedding"][1], vectors.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_computing_changes_no_parameter():
    learner = Learner(config(), FakeServer(Killer(), Clock()))
    before = [p.detach().clone() for p in learner.model.parameters()]
    rows = pieces()[:1]
    learner.compute(learner.fetch(PieceRows(rows)), 1)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_not_finite_gradients_are_refused():
    learner = Learner(config(), FakeServer(Killer(), Clock()))
    (rows, _) = pieces()
    with torch.no_grad():
        next(learner.model.parameters()).fill_(float("nan"))
    assert learner.compute(learner.fetch(PieceRows([rows])), 1).gradients is None


def test_the_seed_decides_the_first_parameters():
    weights = [
        next(Learner(config(seed=seed), FakeServer(Killer(), Clock())).model.parameters())
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
