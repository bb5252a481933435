"""The error tree of the shared schema.

HeadwaterError
├── ConfigError      a configuration file or value is wrong; nothing has been started
└── InvalidMessage   a message cannot be read as the records its topic carries
"""


class HeadwaterError(Exception):
    """Base of every error that Headwater raises on purpose."""


class ConfigError(HeadwaterError, ValueError):
    """A configuration is wrong. The text names the key's path, the value and what is legal."""


class InvalidMessage(HeadwaterError, ValueError):  # noqa: N818 - named for what the message is
    """A message is not a well-formed envelope of the expected records. `reason` is one word for a metric."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
