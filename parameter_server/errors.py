"""The error tree of the parameter server.

HeadwaterError
└── ParameterServerError
    ├── ShardUnavailable    a shard did not answer within the retry budget
    ├── ShardError          a shard answered with an error of its own: a fault there, not in the request
    ├── InvalidRequest      a request is malformed; nothing was changed
    ├── DeltaError          a delta is damaged, incomplete or does not follow; nothing was changed
    ├── TrimmedError        removals that a delta or checkpoint needs are forgotten: start from everything
    └── CheckpointError     a checkpoint cannot be read
"""

from __future__ import annotations

from schema.errors import HeadwaterError


class ParameterServerError(HeadwaterError):
    """Base of what the parameter server and its client raise on purpose."""


class ShardUnavailable(ParameterServerError, ConnectionError):  # noqa: N818 - named for the state
    """A shard could not be reached, or did not answer in time, until the retry budget was spent."""


class ShardError(ParameterServerError):
    """A shard failed while it served a well-formed request."""


class InvalidRequest(ParameterServerError, ValueError):  # noqa: N818 - named for what the request is
    """A request names an unknown table, or has the wrong dtype, length or values. Nothing was changed."""


class DeltaError(ParameterServerError, ValueError):
    """A delta is damaged, has a gap, or does not start where the replica stands. Nothing was changed."""


class TrimmedError(ParameterServerError):
    """The tombstones since a clock are forgotten, so that what changed since then cannot be told."""


class CheckpointError(ParameterServerError):
    """A checkpoint is half-written, damaged, or of other tables than the configured ones."""
