"""Items that the catalogue tells of, for retrieval to place before anybody has seen them.

Holds a consumer of its own. What a step takes goes into its journal record, so that a replay takes the same.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec
import numpy as np
from kafka import TopicPartition
from kafka.errors import KafkaError

from models.retrieval.items import WIDTH, packed_row
from runtime.errors import PlumbingError
from runtime.kafka import consumer, end_offsets
from schema.codec import CATALOGUE
from schema.config import Config
from schema.errors import InvalidMessage
from schema.features import FeatureBuilder
from schema.records import I64, U64

_log = logging.getLogger(__name__)

MOST: Final = 256
"""So many items a step takes."""

_LOOKED_AT: Final = 20_000
_AHEAD: Final = 50_000
_POLL_MS: Final = 100
_RETRY_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0


class Arrived(msgspec.Struct, frozen=True, array_like=True):
    """Distinct items <i8 (n,) with their feature ids <u8 (n, WIDTH)."""

    items: bytes = b""
    contents: bytes = b""

    @classmethod
    def of(cls, arrivals: Sequence[Arrival]) -> Self:
        """Of `arrivals`, distinct ones."""
        contents = np.array([a.contents for a in arrivals], "<u8")
        return cls(np.array([a.item for a in arrivals], "<i8").tobytes(), contents.tobytes())

    def item_ids(self) -> I64:
        """The items, (n,)."""
        return np.frombuffer(self.items, "<i8").astype(np.int64)

    def feature_ids(self) -> U64:
        """Their feature ids, (n, WIDTH)."""
        return np.frombuffer(self.contents, "<u8").reshape(-1, WIDTH).astype(np.uint64)


class Arrival(NamedTuple):
    """An item, and its feature ids, as `models.retrieval.items.packed_row` gives them."""

    item: int
    contents: list[int]


class Arrivals(Protocol):
    """Where new items come from."""

    def take(self, known: Callable[[int], bool]) -> Arrived:
        """At most MOST items, none of which is `known`."""


class CatalogueArrivals:
    """Reads the catalogue from its beginning, a little ahead of what is taken."""

    def __init__(self, config: Config) -> None:
        self._kafka = config.kafka
        self._builder = FeatureBuilder(config.features)
        self._waiting: queue.Queue[Arrival] = queue.Queue(_AHEAD)
        self._positions: dict[TopicPartition, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End reading and close the connection."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def take(self, known: Callable[[int], bool]) -> Arrived:
        """See `Arrivals`."""
        found: dict[int, Arrival] = {}
        for _ in range(_LOOKED_AT):
            if len(found) == MOST:
                break
            try:
                arrival = self._waiting.get_nowait()
            except queue.Empty:
                break
            if not known(arrival.item):
                found[arrival.item] = arrival
        return Arrived.of(list(found.values()))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (KafkaError, PlumbingError) as error:
                _log.warning("the catalogue cannot be read: %s; trying again", error)
                self._stop.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        reader = consumer(self._kafka)
        try:
            name = self._kafka.topics.catalogue.name
            places = [TopicPartition(name, p) for p in end_offsets(reader, name)]
            reader.assign(places)
            for place in places:
                reader.seek(place, self._positions.get(place, 0))
            while not self._stop.is_set():
                self._read(reader)
        finally:
            reader.close()

    def _read(self, reader: Any) -> None:
        for place, messages in reader.poll(timeout_ms=_POLL_MS).items():
            for message in messages:
                self._put(message.value)
                self._positions[place] = message.offset + 1

    def _put(self, value: bytes | None) -> None:
        try:
            profiles = CATALOGUE.decode(value)
        except InvalidMessage as error:
            # replicas read it, too, and count it
            _log.debug("a message of the catalogue is of no use: %s", error)
            return
        for profile in profiles:
            if profile.kind != "item":
                continue
            arrival = Arrival(profile.id, packed_row(self._builder.item(profile.id, profile).ids))
            while not self._stop.is_set():
                try:
                    self._waiting.put(arrival, timeout=_POLL_MS / 1000)
                except queue.Full:
                    continue
                break
