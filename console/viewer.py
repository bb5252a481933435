"""A person on the phone: what was shown, what the person did, and what of it is told to the recommender.

Pure: takes moments in seconds, gives actions. Knows no page.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

HASTE: Final = 8.0
"""How much faster a minute passes on the phone, so that nobody has to watch half a minute of nothing."""

LONG: Final = 0.8
"""The share of an item's length from which on a view is a long one."""

LEAST_SECONDS: Final = 0.8
"""Who leaves sooner has skipped: that is no click."""

_DURATION: Final = 30.0


@dataclass(frozen=True, slots=True)
class Card:
    """One item of a feed as it is shown."""

    request_id: str
    item_id: int
    topic: int
    author: int
    scores: dict[str, float]
    explored: bool
    seconds: float = _DURATION

    @property
    def hue(self) -> int:
        """The colour of its topic, in degrees: neighbouring topics are far apart."""
        return round(self.topic * 137.508) % 360

    @property
    def playing_seconds(self) -> float:
        """How long it plays on the phone."""
        return self.seconds / HASTE


@dataclass(slots=True)
class Viewer:
    """What a person has seen and done so far. `mixes` counts the topics of each feed, the oldest first."""

    user: int
    cards: list[Card] = field(default_factory=list)
    mixes: list[Counter[int]] = field(default_factory=list)
    liked: Counter[int] = field(default_factory=Counter)
    _at: int | None = None
    _since: float = 0.0

    def shown(self, feed: list[Card]) -> None:
        """Take in a feed."""
        self.cards += feed
        self.mixes.append(Counter(card.topic for card in feed))

    def look(self, index: int, now: float, wall_ms: int) -> list[dict[str, Any]]:
        """The person looks at card `index` now; the actions that leaving the one before comes to."""
        if index == self._at or not 0 <= index < len(self.cards):
            return []
        actions = self._left(now, wall_ms)
        self._at, self._since = index, now
        return actions

    def like(self, index: int, wall_ms: int) -> list[dict[str, Any]]:
        """The person likes card `index`: that is a click, too."""
        card = self.cards[index]
        self.liked[card.topic] += 1
        return [_action(card, "click", 1.0, wall_ms), _action(card, "like", 1.0, wall_ms)]

    @property
    def left(self) -> int:
        """How many cards come after the one that is looked at."""
        return len(self.cards) - 1 - (-1 if self._at is None else self._at)

    def _left(self, now: float, wall_ms: int) -> list[dict[str, Any]]:
        if self._at is None or now - self._since < LEAST_SECONDS:
            return []
        card = self.cards[self._at]
        watched = min(card.seconds, (now - self._since) * HASTE)
        actions = [_action(card, "click", 1.0, wall_ms), _action(card, "watch", round(watched, 1), wall_ms)]
        if watched >= LONG * card.seconds:
            actions.append(_action(card, "long_view", round(watched, 1), wall_ms))
        return actions


def card(request_id: str, item: dict[str, Any], slots: dict[str, list[int]], seconds: float | None) -> Card:
    """A card, of an item of a feed and what the replica knows of it."""
    return Card(
        request_id,
        int(item["item_id"]),
        (slots.get("tag") or [0])[0],
        (slots.get("author") or [0])[0],
        item["scores"],
        bool(item["explored"]),
        seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else _DURATION,
    )


def _action(shown: Card, kind: str, value: float, wall_ms: int) -> dict[str, Any]:
    return {
        "request_id": shown.request_id,
        "item_id": shown.item_id,
        "kind": kind,
        "event_time": wall_ms,
        "value": value,
    }
