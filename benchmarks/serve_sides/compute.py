"""The bare model compute of a feed: retrieve, look up rows, score; features are made beforehand."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable

from models.batch import Batch, Collator
from models.heads import Heads
from models.retrieval.shipping import RETRIEVAL, STRUCTURE
from parameter_server.client import ParameterClient
from parameter_server.replica import ReplicaTables
from schema.config import Config
from schema.features import FeatureBuilder, Moment
from serve_sides.world import USERS, World
from serving.parameters import Dense, Parameters
from serving.ranker import scores
from serving.replica import new_model
from serving.retrieval import Retriever
from serving.structure import Updates


class Compute:
    """The bare model compute of feeds like those of the replica."""

    def __init__(self, config: Config, world: World, client: ParameterClient) -> None:
        server = config.parameter_server
        assert config.retrieval is not None  # noqa: S101 - configs/local.yaml has it
        builder, collator = FeatureBuilder(config.features), Collator(config.features)
        updates = Updates(config, config.retrieval, lambda i: builder.item(i, world.items[i]))
        self._parameters = Parameters(
            ReplicaTables(server), len(server.shards), [t.name for t in server.tables], updates
        )
        deltas = [client.delta(shard, None) for shard in range(len(server.shards))]
        self._model = new_model(config).eval()
        learned = updates.follow(_dense(client, RETRIEVAL), lambda: _dense(client, STRUCTURE))
        self._parameters.replace(deltas, Dense(1, 1, self._model, learned))
        self._heads = Heads.of(config)
        self._retriever = Retriever(config, config.retrieval, self._parameters)
        serving = config.serving
        self._retrieved = round(serving.candidates * (1 - serving.recent_share - serving.popular_share))
        rng = random.Random(5)
        self._feeds: list[tuple[Moment, tuple[Batch, Batch]]] = []
        for user in rng.sample(range(USERS), 200):
            history = world.histories[user]
            moment = Moment(
                world.now, 0, {"watched": history, "long_viewed": history[:30], "liked": history[:30]}
            )
            who = builder.user(user, world.users[user])
            chosen = rng.sample(world.items, config.serving.candidates)
            items = [builder.item(p.id, p) for p in chosen]
            shown = items[: config.serving.feed_size]
            self._feeds.append(
                (
                    moment,
                    (
                        collator.collate([builder.build(who, moment, items)], [len(items)]),
                        collator.collate([builder.build(who, moment, shown)], [len(shown)]),
                    ),
                )
            )

    def seconds(self) -> float:
        """The median of a feed, one right after the other."""
        return self._median(self._feeds * 5, 0.0)

    def paced_seconds(self, rate: float) -> float:
        """The median of a feed, `rate` a second: caches and the processor's sleep are as under that load."""
        return self._median(self._feeds, 1 / rate)

    def _median(self, feeds: Iterable[tuple[Moment, tuple[Batch, Batch]]], distance: float) -> float:
        took, due = [], time.perf_counter()
        for moment, batches in feeds:
            due += distance
            if distance:
                time.sleep(max(0.0, due - time.perf_counter()))
            start = time.perf_counter()
            self._retriever.find(0, moment.histories, self._retrieved)
            for batch in batches:
                reading = self._parameters.read(batch.ids)
                scores(self._heads, self._model, batch, reading.embeddings)
            took.append(time.perf_counter() - start)
        return statistics.median(took)


def _dense(client: ParameterClient, name: str) -> bytes:
    found = client.get_dense(name)
    assert found is not None  # noqa: S101 - `fill` has published it
    return found.payload
