"""What a trainer does to a replica, in a process of its own: rows pushed, weights and structure published."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
import torch

from models.dense import RANKER, dump_payload
from models.retrieval.learning import StructureLearner
from models.retrieval.model import DeepRetrieval
from models.retrieval.shipping import Shipper
from parameter_server.client import ParameterClient
from schema.config import Config
from schema.ids import feature_id
from schema.records import U64
from serving.replica import new_model

_PUSHES: Final = 10
"""Pushes a second."""
_STEP: Final = 20_000
"""Rows that are filled in at a time."""


class Published:
    """Dense weights of both stages and a structure of the items, as a trainer publishes them."""

    def __init__(self, config: Config, items: int) -> None:
        assert config.retrieval is not None  # noqa: S101 - configs/local.yaml has it
        torch.manual_seed(0)
        self._model = new_model(config)
        retrieval = config.retrieval
        dim = next(t.dim for t in config.parameter_server.tables if t.name == retrieval.table) - 1
        self._module, self._learner = DeepRetrieval(retrieval, dim), StructureLearner(retrieval)
        self._learner.paths(np.arange(items))
        self._shipper = Shipper(self._learner.structure)
        self._items, self._moved = items, 0

    def move(self, count: int) -> None:
        """Put the next `count` items where others are, as an M-step would."""
        structure = self._learner.structure
        items = np.unique((self._moved + np.arange(count)) % self._items)
        self._moved += count
        others = structure.rows_of((items * 31 + self._moved) % self._items)
        structure.assign(items, structure.paths_at(others))

    def publish(self, client: ParameterClient, step: int) -> None:
        """All of it as version `step`."""
        for name, payload in self._shipper.payloads(dump_payload(self._module)):
            client.put_dense(name, step, step, payload)
        client.put_dense(RANKER, step, step, dump_payload(self._model))


def push_when_told(told: Connection, config: Config, rows: U64, a_second: int, items: int) -> None:
    """A process that trains: while told True it pushes `a_second` rows a table, and publishes, a second."""
    rng = np.random.default_rng(3)
    published = Published(config, items)
    dims = {table.name: table.dim for table in config.parameter_server.tables}
    with ParameterClient(config.parameter_server) as client:
        step, on, beat = 10**6, False, time.monotonic()
        while True:
            if told.poll(0 if on else None):
                on = told.recv()
                if on is None:
                    return
                beat = time.monotonic()
                continue
            ids = np.sort(rng.choice(rows, a_second // _PUSHES, replace=False))
            gradients = {
                table: (ids, rng.normal(scale=0.01, size=(len(ids), dim)).astype(np.float32))
                for table, dim in dims.items()
            }
            step += 1
            client.push("bench", step, gradients, 0, [])
            if step % _PUSHES == 0:
                published.move(items // 100)
                published.publish(client, step)
            beat += 1 / _PUSHES
            time.sleep(max(0.0, beat - time.monotonic()))


@contextmanager
def trainer(config: Config, rows: U64, a_second: int, items: int) -> Iterator[Callable[[bool], None]]:
    """Runs `push_when_told` beside this process; what turns it on and off."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=push_when_told, args=(theirs, config, rows, a_second, items), daemon=True)
    child.start()
    try:
        yield ours.send
    finally:
        ours.send(None)
        child.join(30)
        if child.is_alive():
            child.kill()


def fill(client: ParameterClient, config: Config, ids: U64, rows: int, items: int) -> None:
    """`ids` and others up to `rows` rows a table, dense weights, and a structure of `items` items."""
    others = np.array([feature_id(999, i) for i in range(max(0, rows - len(ids)))], np.uint64)
    rng = np.random.default_rng(1)
    for step, part in enumerate(np.array_split(np.concatenate([ids, others]), 1 + rows // _STEP), start=1):
        gradients = {
            table.name: (part, rng.normal(size=(len(part), table.dim)).astype(np.float32))
            for table in config.parameter_server.tables
        }
        client.push("filler", step, gradients, 0, [])
    Published(config, items).publish(client, 1)
