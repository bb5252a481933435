"""The error tree of the producers.

HeadwaterError
└── SimulationError
    ├── LogError            a recorded log is missing, unreadable, or not of the expected form
    ├── ServingUnavailable  no replica took the simulated items and users in time
    ├── Unreached           a request got no whole answer, which another try may change
    ├── Rejected            a replica refused a request for good (a 4xx status)
    └── OpsPortTaken        the simulator's own endpoint cannot be listened on
"""

from __future__ import annotations

from schema.errors import HeadwaterError


class SimulationError(HeadwaterError):
    """Base of the errors of `simulation`."""


class LogError(SimulationError, ValueError):
    """A recorded log cannot be replayed. The text names the file, what was found and what is expected."""


class ServingUnavailable(SimulationError):  # noqa: N818 - named for what happened
    """No serving replica answered in time. The text names the addresses."""


class Unreached(SimulationError):  # noqa: N818 - named for what happened
    """A connection was not made, broke, or took too long. The text has the URL and why."""


class Rejected(SimulationError):  # noqa: N818 - named for what happened
    """A replica answered with a status that no retry changes. The text has the status and the body."""


class OpsPortTaken(SimulationError):  # noqa: N818 - named for what happened
    """`simulation.ops_port` is not free. The text names the address."""
