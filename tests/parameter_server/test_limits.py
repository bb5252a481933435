"""Back-pressure: beyond its bound a shard says that it is busy, clients wait, health is answered all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest

from parameter_server.client import ParameterClient
from parameter_server.errors import ShardUnavailable
from parameter_server.server import ShardServer
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, ShardConfig
from tests.parameter_server.cases import config, u64
from tests.polling import wait_until


class Held:
    """A shard of two requests at a time, whose pulls wait until they are let go."""

    def __init__(self) -> None:
        settings = config(most_requests=2, retry_seconds=20.0, request_seconds=20.0)
        self.shard = Shard(settings, 0)
        self.server = ShardServer(self.shard, "127.0.0.1", 0)
        self.go = threading.Event()
        pull = self.shard.pull

        def slow(wanted):  # type: ignore[no-untyped-def]
            assert self.go.wait(20)
            return pull(wanted)

        self.shard.pull = slow  # type: ignore[method-assign]
        places = (ShardConfig(port=self.server.port, ops_port=1),)
        self.settings: ParameterServerConfig = msgspec.structs.replace(settings, shards=places)


@pytest.fixture
def held() -> Iterator[Held]:
    group = Held()
    yield group
    group.go.set()
    group.server.shutdown()


def pull(settings: ParameterServerConfig, done: list[int]) -> None:
    with ParameterClient(settings) as client:
        done.append(len(client.pull("embedding", u64([1, 2]))))


def test_who_finds_it_busy_waits_and_is_served(held: Held) -> None:
    done: list[int] = []
    threads = [threading.Thread(target=pull, args=(held.settings, done)) for _ in range(6)]
    for thread in threads:
        thread.start()
    with ParameterClient(held.settings) as client:
        wait_until(lambda: client.health(0).requests == 2, 10)
        impatient = msgspec.structs.replace(held.settings, retry_seconds=0.2)
        with (
            ParameterClient(impatient) as other,
            pytest.raises(
                ShardUnavailable, match=r"busy: 2 requests are under way; legal is 2 \(most_requests\)"
            ),
        ):
            other.shard_state(0)
        assert client.health(0) == type(client.health(0))(2, 2)
        held.go.set()
        for thread in threads:
            thread.join(30)
        assert done == [2] * 6
        wait_until(lambda: client.health(0).requests == 0, 10)


def test_a_delta_that_is_not_read_to_its_end_gives_its_place_back(held: Held) -> None:
    held.go.set()
    with ParameterClient(held.settings) as client:
        for _ in range(5):
            assert client.delta(0, None).full
        wait_until(lambda: client.health(0).requests == 0, 10)


def test_a_follower_of_a_shard_that_is_away_gives_up_soon() -> None:
    settings = config(request_seconds=0.2, retry_seconds=60.0)
    with ParameterClient(settings) as client, pytest.raises(ShardUnavailable):
        client.delta(0, None)
