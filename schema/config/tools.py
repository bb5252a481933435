"""What stands around the loop: simulated users, the console, the supervisor."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schema.config.values import Count, Port, Positive, PositiveFloat, PositiveSeconds, Section


class SimulationConfig(Section, frozen=True, kw_only=True):
    """Closed-loop simulated users: how many, of which tastes, how fast they scroll, and how they change.

    A taste moves towards a new aim within about `drift_seconds`, and jumps every `jump_seconds` on average;
    an item lives for `item_life_seconds` on average. Commands and reports are on `ops_port`.
    """

    users: Positive = 500
    items: Positive = 2000
    topics: Positive = 16
    surfaces: Positive = 2
    requests_per_second: PositiveFloat = 40.0
    action_delay_seconds: PositiveFloat = 1.0
    drift_seconds: Annotated[float, Meta(ge=1)] = 600.0
    jump_seconds: Annotated[float, Meta(ge=1)] = 1200.0
    item_life_seconds: Annotated[float, Meta(ge=1)] = 1800.0
    seed: Count = 0
    ops_port: Port = 18300


class ConsoleConfig(Section, frozen=True, kw_only=True):
    """Where the console's pages are, and on which `hosts` it finds roles that do not say so elsewhere.

    Of "trainer", "joiner" and "simulation" that is `ops_host`, of "replica" the replicas' own, unless named.
    """

    host: str = "127.0.0.1"
    port: Port = 18400
    hosts: dict[Literal["trainer", "joiner", "simulation", "replica"], str] = msgspec.field(
        default_factory=dict
    )


class LaunchConfig(Section, frozen=True, kw_only=True):
    """How the supervisor treats the processes that it starts."""

    ready_seconds: PositiveSeconds = 90.0
    stop_seconds: PositiveSeconds = 20.0
    backoff_seconds: PositiveSeconds = 0.5
    backoff_max_seconds: PositiveSeconds = 15.0
