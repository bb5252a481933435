"""What the HTTP API takes and gives, with every bound. Knows no endpoint.

Strict: a number in quotes, an unknown key or a NaN is refused, since it is a mistake of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from schema.records import Action, ActionBatch, Profile
from serving.feed import Feed

MAX_ACTIONS: Final = 1000
MAX_PROFILES: Final = 1000
MAX_FIELDS: Final = 100
MAX_VALUES: Final = 1000
_TEXT: Final = 200
_FLOAT32: Final = 3.4e38


def _whole(value: object) -> object:
    """To JSON, 1.0 is an integer, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole: Final = BeforeValidator(_whole)
Id = Annotated[int, Field(ge=0, le=(1 << 63) - 1), _Whole]
Millis = Annotated[int, Field(ge=0, le=(1 << 53) - 1, description="Unix milliseconds"), _Whole]
Surface = Annotated[int, Field(ge=0, le=(1 << 31) - 1), _Whole]
Size = Annotated[int, Field(ge=1, le=1000), _Whole]
Name = Annotated[str, Field(min_length=1, max_length=_TEXT)]
Number = Annotated[float, Field(ge=-_FLOAT32, le=_FLOAT32, allow_inf_nan=False)]
_Long = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1), _Whole]
Value = _Long | Annotated[str, Field(max_length=_TEXT)]
Fields = Annotated[
    dict[Name, Annotated[list[Value], Field(max_length=MAX_VALUES)]], Field(max_length=MAX_FIELDS)
]
Numbers = Annotated[dict[Name, Number], Field(max_length=MAX_FIELDS)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FeedRequest(_Model):
    """Who asks, where, and for how many items (by default and at most `serving.feed_size`)."""

    user_id: Id
    surface: Surface = 0
    size: Size | None = None


class FeedItem(_Model):
    """One item of a feed; `scores` is empty, and `score` 0, where popularity ordered it.

    `explored`: it was drawn at random for this position.
    """

    item_id: int
    position: int
    score: float
    scores: dict[str, float]
    explored: bool


class ModelInfo(_Model):
    """The parameters that ranked a feed: the dense version (0: none) and each shard's (epoch, clock)."""

    dense: int
    shards: list[Annotated[list[int], Field(min_length=2, max_length=2)]]


class FeedResponse(_Model):
    """A feed, the best item first. Send `request_id` back with the user's actions."""

    request_id: str
    event_time: int
    items: list[FeedItem]
    model: ModelInfo


class ActionIn(_Model):
    """One thing that the user did to one item of one feed."""

    request_id: Name
    item_id: Id
    kind: Name
    event_time: Millis
    value: Number = 1.0


class ActionsRequest(_Model):
    """Actions of one user."""

    user_id: Id
    actions: Annotated[list[ActionIn], Field(min_length=1, max_length=MAX_ACTIONS)]

    def record(self) -> ActionBatch:
        """As the record that Kafka carries."""
        actions = (Action(a.request_id, a.item_id, a.kind, a.event_time, a.value) for a in self.actions)
        return ActionBatch(self.user_id, tuple(actions))


class _ProfileIn(_Model):
    fields: Fields = {}
    numbers: Numbers = {}

    def _profile(self, kind: str, own_id: int, event_time: int) -> Profile:
        fields = {name: tuple(values) for name, values in self.fields.items()}
        return Profile(kind, own_id, event_time, fields, dict(self.numbers))


class ItemIn(_ProfileIn):
    """What is known of an item; it replaces what was. `event_time` (by default now) says how new it is."""

    item_id: Id
    event_time: Millis | None = None

    def record(self, now: int) -> Profile:
        """As the record that Kafka carries."""
        return self._profile("item", self.item_id, now if self.event_time is None else self.event_time)


class UserIn(_ProfileIn):
    """What is known of a user; it replaces what was."""

    user_id: Id

    def record(self, now: int) -> Profile:
        """As the record that Kafka carries."""
        return self._profile("user", self.user_id, now)


class ItemsRequest(_Model):
    """Profiles of items."""

    items: Annotated[list[ItemIn], Field(min_length=1, max_length=MAX_PROFILES)]


class UsersRequest(_Model):
    """Profiles of users."""

    users: Annotated[list[UserIn], Field(min_length=1, max_length=MAX_PROFILES)]


class SyncSettings(_Model):
    """How a replica takes its rounds; what is left out stays as it is."""

    paused: bool | None = None
    sparse_seconds: Annotated[float, Field(ge=1, le=3600)] | None = None
    dense_seconds: Annotated[float, Field(ge=1, le=3600)] | None = None


class Problem(_Model):
    """What is wrong with one field of a request; `field` is its path, such as "actions.0.kind"."""

    field: str
    message: str


class Problems(_Model):
    """The answer to a request that is refused."""

    detail: list[Problem]


class Unavailable(_Model):
    """The answer to a request that cannot be met now."""

    detail: str


class Refused(_Model):
    """The answer to a request that is not let in."""

    detail: str


class ItemSlots(_Model):
    """The values that an item gives each of its slots: integers as they are, others as their hashes."""

    item_id: int
    slots: dict[str, list[int]]


class ExplainedItem(_Model):
    """One item of an explained request: its slots, and its scores as served and as computed again."""

    item_id: int
    propensity: float | None
    slots: dict[str, list[int]]
    served: dict[str, float]
    again: dict[str, float]


class LogToExplain(_Model):
    """A feature log: the envelope of one record, as Kafka has it, in base 64."""

    envelope: Annotated[str, Field(max_length=1 << 20)]


class Explanation(_Model):
    """A request as its log has it; `same_bits`: the log gives the very scores that were served.

    It is null, and `again` empty, where the parameters that scored it are not at hand.
    """

    request_id: str
    user_id: int
    event_time: int
    model: ModelInfo
    context: dict[str, list[int]]
    items: list[ExplainedItem]
    same_bits: bool | None


class Accepted(_Model):
    """How many actions or profiles were taken in."""

    accepted: int


def feed_json(feed: Feed, tasks: Sequence[str]) -> bytes:
    """The answer that tells of `feed`, with its scores by task: a FeedResponse in JSON."""
    rows = [] if feed.scores is None else feed.scores.tolist()
    final = [0.0] * len(feed.items) if feed.final is None else feed.final.tolist()
    items = [
        {
            "item_id": item,
            "position": position,
            "score": final[position],
            "scores": dict(zip(tasks, rows[position], strict=True)) if rows else {},
            "explored": bool(feed.explored[position]),
        }
        for position, item in enumerate(feed.items)
    ]
    return msgspec.json.encode(
        {
            "request_id": feed.request_id,
            "event_time": feed.event_time,
            "items": items,
            "model": {"dense": feed.version.dense, "shards": feed.version.shards},
        }
    )
