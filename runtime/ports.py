"""Free ports for the broker's internal listener and for tests."""

from __future__ import annotations

import random
import socket
from typing import Final

# below the range from which the kernel gives outgoing connections their ports, so that a port
# found free here is not taken by one of those before the process it is meant for listens
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens.

    Raises:
        OSError: none was found.
    """
    for port in random.SystemRandom().sample(range(_LOWEST, _HIGHEST), 200):
        if is_free(port):
            return port
    raise OSError(f"no free port among 200 tried from {_LOWEST} to {_HIGHEST}")
