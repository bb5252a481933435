"""The ranker against the same network in numpy, and its parameters as bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from models.batch import Collator
from models.dense import PayloadError, dump_payload, load_payload
from models.losses import log_loss
from models.mmoe import MMoE
from schema.config import ModelConfig
from tests.models import naive
from tests.models.naive import FEATURES, Request

DIM = 4
CONFIG = ModelConfig(experts=3, expert_hidden=(8, 5), head_hidden=(6,))


def made(seed: int = 0, config: ModelConfig = CONFIG) -> MMoE:
    torch.manual_seed(seed)
    return MMoE(config, FEATURES, tasks=2, dim=DIM)


def test_the_network_equals_the_formula():
    rng = np.random.default_rng(4)
    requests = [Request(rng, n) for n in (3, 1, 4)]
    model = made()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    batch = Collator(FEATURES).collate([r.features() for r in requests], [r.rows for r in requests])
    vectors = {table: rng.normal(size=(len(ids), DIM)).astype("f4") for table, ids in batch.ids.items()}
    by_id = {
        table: dict(zip(ids.tolist(), vectors[table].astype(float), strict=True))
        for table, ids in batch.ids.items()
    }
    logits = model(batch, {table: torch.from_numpy(v) for table, v in vectors.items()})
    want = naive.mmoe(model, naive.inputs(requests, by_id, DIM))
    np.testing.assert_allclose(logits.detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_every_task_first_sees_the_mean_of_the_experts():
    assert all(not gate.weight.any() for gate in made().mixture.gates)


def test_an_untrained_model_predicts_about_the_prior():
    model = made()
    model.start_from([0.4, 0.02])
    requests = [Request(np.random.default_rng(4), 5)]
    batch = Collator(FEATURES).collate([r.features() for r in requests], [5])
    vectors = {table: torch.zeros(len(ids), DIM) for table, ids in batch.ids.items()}
    predicted = torch.sigmoid(model(batch, vectors)).mean(dim=0)
    torch.testing.assert_close(predicted, torch.tensor([0.4, 0.02]), rtol=0.35, atol=0)


def test_a_loss_counts_only_what_the_mask_speaks_for():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 2, generator=rng)
    labels = torch.randint(0, 2, (7, 2), generator=rng).float()
    mask = torch.randint(0, 2, (7, 2), generator=rng).float()
    want = 0.0
    for row in range(7):
        for task in range(2):
            if mask[row, task]:
                want += float(
                    functional.binary_cross_entropy(torch.sigmoid(logits[row, task]), labels[row, task])
                )
    assert float(log_loss(logits, labels, mask)) == pytest.approx(want / 7, rel=1e-5)


def test_a_payload_makes_the_same_network():
    source, target = made(1), made(2)
    load_payload(target, dump_payload(source))
    assert dump_payload(target) == dump_payload(source)
    assert dump_payload(made(2)) != dump_payload(source)


def other_shape() -> bytes:
    return dump_payload(made(config=ModelConfig(experts=3, expert_hidden=(8, 4), head_hidden=(6,))))


def one_less() -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(dump_payload(made()))[1:])


def short_data() -> bytes:
    arrays = msgspec.msgpack.decode(dump_payload(made()))
    arrays[0][3] = arrays[0][3][:-4]
    return msgspec.msgpack.encode(arrays)


def objects() -> bytes:
    arrays = msgspec.msgpack.decode(dump_payload(made()))
    arrays[0][1] = "|O"
    return msgspec.msgpack.encode(arrays)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "payload"),
        (b"\x93nonsense", "payload"),
        (dump_payload(made())[:-3], "payload"),
        (other_shape(), r"is \(.*\); legal is \("),
        (one_less(), "is None; legal is"),
        (short_data(), "payload"),
        (objects(), "payload"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_and_changes_nothing(payload, text):
    model = made(3)
    before = dump_payload(model)
    with pytest.raises(PayloadError, match=text):
        load_payload(model, payload)
    assert dump_payload(model) == before
