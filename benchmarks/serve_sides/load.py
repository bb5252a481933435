"""Feeds over HTTP at a steady rate, or as fast as they come."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from serve_sides.world import USERS

_HEAD: Final = (
    b"POST /v1/feed HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)


@dataclass
class Load:
    """Latencies in seconds of the requests of one stretch, and how late the latest was sent."""

    latencies: list[float] = field(default_factory=list)
    behind: float = 0.0
    failed: int = 0

    def percentile(self, percent: float) -> float:
        """Of the latencies."""
        return float(np.percentile(self.latencies, percent))


class FeedConnection:
    """One kept-alive HTTP connection that costs the caller next to nothing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def feed(self, user: int) -> int:
        """Ask for a feed; the status."""
        body = b'{"user_id":%d}' % user
        self._socket.sendall(_HEAD % len(body) + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        top, _, rest = data.partition(b"\r\n\r\n")
        length = int(top.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(rest) < length:
            rest += self._more()
        return int(top[9:12])

    def _more(self) -> bytes:
        part = self._socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the replica closed the connection")
        return part

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def drive(port: int, seconds: float, connections: int, rate: float | None) -> Load:
    """Feeds for `seconds`: `rate` a second at even distances, or as fast as `connections` get them."""
    load, lock = Load(), threading.Lock()
    began = time.perf_counter()
    turns: Iterator[int] = iter(range(10**9 if rate is None else int(seconds * rate)))

    def work(number: int) -> None:
        connection, rng = FeedConnection(port), random.Random(number)
        try:
            while time.perf_counter() < began + seconds:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                due = time.perf_counter() if rate is None else began + turn / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                sent = time.perf_counter()
                status = connection.feed(rng.randrange(USERS))
                load.latencies.append(time.perf_counter() - sent)
                load.failed += status != 200
                load.behind = max(load.behind, sent - due)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load
