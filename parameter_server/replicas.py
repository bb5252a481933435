"""Asks serving replicas over HTTP where they stand. Knows their report, not their code."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from schema.config import ReplicaConfig

_SECONDS: Final = 2.0


class Position(NamedTuple):
    """The (epoch, clock) of one shard's rows at a replica; None where it does not say."""

    replica: str
    position: tuple[int, int] | None


def positions(replicas: Iterable[ReplicaConfig], shard: int) -> Iterator[Position]:
    """Where each replica stands with `shard`."""
    for replica in replicas:
        name = f"{replica.host}:{replica.port}"
        yield Position(name, _ask(f"http://{name}/report/replica", shard))


def _ask(url: str, shard: int) -> tuple[int, int] | None:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - http, from the config
            epoch, clock = json.load(answer)["clocks"][shard]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return int(epoch), int(clock)
