"""Who is served by whom: half of the users by the frozen replicas, where there are any. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.chance import Purpose, uniform
from simulation.client import ReplicaClient


@dataclass(frozen=True, slots=True)
class Arms:
    """The clients of the live replicas and, in a comparison, of those that learn nothing more."""

    seed: int
    live: ReplicaClient
    frozen: ReplicaClient | None = None

    @property
    def errors(self) -> int:
        """How many tries failed, of both."""
        return self.live.errors + (self.frozen.errors if self.frozen else 0)

    def is_frozen(self, user: int) -> bool:
        """Whether `user` is in the half that the frozen replicas serve; drawn by the seed, for good."""
        return self.frozen is not None and bool(uniform(self.seed, Purpose.ARM, user)[0] < 0.5)  # noqa: PLR2004

    def client(self, user: int) -> ReplicaClient:
        """The client that serves `user`."""
        return self.frozen if self.frozen is not None and self.is_frozen(user) else self.live
