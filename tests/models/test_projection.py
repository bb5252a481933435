"""The projection of slots whose rows have several widths: what it computes, and that growth changes no output."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.batch import Batch, Collator
from models.dense import PayloadError, dump_payload, load_payload
from models.mmoe import MMoE
from schema.config import FeaturesConfig, HistoryConfig, ModelConfig, SlotConfig
from schema.records import Features, IdColumn, column
from tests.models import naive
from tests.models.naive import CONTEXT, FEATURES, ITEMS, Request

DIM, NARROW = 8, 3
CONFIG = ModelConfig(experts=3, expert_hidden=(8, 5), head_hidden=(6,))
ATTENDING = FeaturesConfig(
    slots=(
        SlotConfig(name="user", slot=1, source="user.id"),
        SlotConfig(name="video", slot=2, source="item.id"),
        SlotConfig(name="seen", slot=3, source="history.seen", ids_of="video", pool="attention"),
    ),
    histories=(HistoryConfig(name="seen", actions=("exposed",)),),
)
NAMES = [slot.name for slot in ATTENDING.slots]


def made(features: FeaturesConfig, projected: list[str], seed: int = 0) -> MMoE:
    """A network in which every parameter matters."""
    torch.manual_seed(seed)
    model = MMoE(CONFIG, features, tasks=2, dim=DIM, projected=projected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def attending(rng: np.random.Generator) -> tuple[Batch, torch.Tensor]:
    """Two requests of three rows with histories, and vectors of which only the first few values are not 0."""
    features = [
        Features(
            context=(
                IdColumn(1, column([user], "<u8")),
                IdColumn(3, column(rng.integers(10, 20, 4), "<u8"), column([4], "<u2")),
            ),
            items=(IdColumn(2, column(rng.integers(10, 20, 3), "<u8")),),
        )
        for user in (1, 2)
    ]
    batch = Collator(ATTENDING).collate(features, [3, 3])
    vectors = np.zeros((len(batch.ids["embedding"]), DIM), np.float32)
    vectors[:, :NARROW] = rng.normal(size=(len(vectors), NARROW))
    return batch, torch.from_numpy(vectors)


def test_the_network_with_projections_equals_the_formula() -> None:
    rng = np.random.default_rng(4)
    requests = [Request(rng, n) for n in (3, 1, 4)]
    projected = ["video", "profile", "words"]
    model = made(FEATURES, projected)
    batch = Collator(FEATURES).collate([r.features() for r in requests], [r.rows for r in requests])
    vectors = {table: rng.normal(size=(len(ids), DIM)).astype("f4") for table, ids in batch.ids.items()}
    by_id = {
        table: dict(zip(ids.tolist(), vectors[table].astype(float), strict=True))
        for table, ids in batch.ids.items()
    }
    x = naive.inputs(requests, by_id, DIM)
    slots = [*CONTEXT, None, *ITEMS]  # None: the dense value between them
    at = 0
    for slot in slots:
        if slot is not None and slot.name in projected:
            weight = model.projections[slot.name].weight.detach().double().numpy()
            x[:, at : at + DIM] = x[:, at : at + DIM] @ weight.T
        at += 1 if slot is None else DIM
    logits = model(batch, {table: torch.from_numpy(v) for table, v in vectors.items()})
    np.testing.assert_allclose(logits.detach().numpy(), naive.mmoe(model, x), rtol=1e-4, atol=1e-5)


def test_it_starts_as_the_network_without() -> None:
    batch, vectors = attending(np.random.default_rng(1))
    torch.manual_seed(3)
    plain = MMoE(CONFIG, ATTENDING, tasks=2, dim=DIM)
    torch.manual_seed(3)
    projecting = MMoE(CONFIG, ATTENDING, tasks=2, dim=DIM, projected=NAMES)
    assert torch.equal(plain(batch, {"embedding": vectors}), projecting(batch, {"embedding": vectors}))


def test_what_a_narrow_row_lacks_meets_columns_that_do_not_matter() -> None:
    batch, vectors = attending(np.random.default_rng(2))
    model = made(ATTENDING, NAMES)
    before = model(batch, {"embedding": vectors})
    with torch.no_grad():
        for name in NAMES:
            model.projections[name].weight[:, NARROW:].normal_(0, 100)
    assert torch.equal(model(batch, {"embedding": vectors}), before)
    with torch.no_grad():
        for name in NAMES:
            model.projections[name].weight[:, :NARROW].normal_(0, 1)
    assert not torch.allclose(model(batch, {"embedding": vectors}), before)


@pytest.mark.parametrize("start", ["identity", "trained"])
def test_a_block_of_zeros_gets_gradients_and_so_learns(start: str) -> None:
    batch, vectors = attending(np.random.default_rng(3))
    model = made(ATTENDING, NAMES)
    if start == "identity":
        for name in NAMES:
            torch.nn.init.eye_(model.projections[name].weight)
    vectors.requires_grad_()
    model(batch, {"embedding": vectors}).sum().backward()
    assert vectors.grad is not None
    used = np.unique(np.concatenate([s.index.numpy() for s in (*batch.context, *batch.items)]))
    assert bool((vectors.grad[used][:, NARROW:] != 0).any(dim=1).all()), "every id's new block"


def test_published_parameters_hold_the_projections() -> None:
    source, target = made(ATTENDING, NAMES), made(ATTENDING, NAMES, seed=1)
    load_payload(target, dump_payload(source))
    for name in NAMES:
        assert torch.equal(target.projections[name].weight, source.projections[name].weight)
    with pytest.raises(PayloadError, match=r"projections\.seen\.weight is None; legal is \(8, 8\)"):
        load_payload(target, dump_payload(made(ATTENDING, NAMES[:2])))
