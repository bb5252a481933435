"""The error tree of the process plumbing.

HeadwaterError
└── PlumbingError
    ├── KafkaJarsUnavailable  the broker's files could not be fetched
    ├── BrokerUnavailable     no broker answers at the configured address
    ├── BrokerFailed          the project's own broker did not come up
    ├── TopicMismatch         a topic exists with other settings than the configuration's
    ├── DeliveryFailed        messages were not acknowledged by the broker
    └── ProcessFailed         a supervised process died, or never became ready
"""

from __future__ import annotations

from schema.errors import HeadwaterError


class PlumbingError(HeadwaterError):
    """Base of the errors of `runtime`."""


class KafkaJarsUnavailable(PlumbingError):  # noqa: N818 - named for what happened, like the rest of the tree
    """The broker's jars are not cached and could not be fetched."""


class BrokerUnavailable(PlumbingError):  # noqa: N818
    """No broker answered in time. The text names the address and the key that sets it."""


class BrokerFailed(PlumbingError):  # noqa: N818
    """The project's own broker did not come up. The text ends with the tail of its log."""


class TopicMismatch(PlumbingError):  # noqa: N818
    """A topic exists with another partition count than the configuration's."""


class DeliveryFailed(PlumbingError):  # noqa: N818
    """Messages could not be delivered. The text says how many, to which topic, and the first cause."""


class ProcessFailed(PlumbingError):  # noqa: N818
    """A supervised process died or never became ready. The text ends with its last log lines."""
