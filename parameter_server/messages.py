"""The requests and replies beside the columns: small MessagePack structs, shared by server and client."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from parameter_server.errors import InvalidRequest
from schema.config.values import Name
from schema.records import Millis

Natural = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
POINT: Final = "point-"
"""How the names of checkpoints begin that belong to a recovery point: they stay until `Keep` drops them."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the requests and replies."""


class Request(Message, frozen=True):
    """A request says which of how many shards it takes the server for, so that a mix-up is noticed."""

    shard: int
    shards: int


class Push(Request, frozen=True):
    """Announces blocks of ids and gradients: of each its table, how many ids it has, and how many values.

    completed_at <i8 (n,), wall-clock milliseconds.
    """

    trainer: Name
    step: Natural
    event_time: Millis
    completed_at: bytes
    blocks: tuple[tuple[str, Natural, Natural], ...]


class Pull(Request, frozen=True):
    """Asks for the vectors of as many ids of each table, which follow; first, `push` is to be applied.

    The ids of the push come before those that are asked for.
    """

    tables: tuple[tuple[str, Natural], ...]
    push: Push | None = None


class PushDone(Message, frozen=True):
    """The shard's clock and epoch after a push; whether the push was applied, or had been before."""

    clock: int
    applied: bool
    epoch: int


class DeltaSince(Request, frozen=True):
    """Asks for what changed since `since` = (epoch, clock); None asks for everything."""

    since: tuple[Natural, Natural] | None


class State(Request, frozen=True):
    """Asks where the shard stands."""


class StateIs(Message, frozen=True):
    """The shard's epoch, clock and each trainer's last step."""

    epoch: int
    clock: int
    steps: dict[str, int]


class Stats(Request, frozen=True):
    """Asks for the operator's view."""


class StatsAre(Message, frozen=True):
    """The shard in numbers: rows, tombstones and bytes by table, and versions of dense parameters by name."""

    index: int
    epoch: int
    clock: int
    rows: dict[str, int]
    steps: dict[str, int]
    dense: dict[str, int]
    tombstones: dict[str, int]
    bytes: dict[str, int]


class Digest(Request, frozen=True):
    """Asks for the content digest of a table."""

    table: str


class DigestIs(Message, frozen=True):
    """The digest of a table's content at `clock`."""

    clock: int
    digest: int


class Evict(Request, frozen=True):
    """Asks to remove ids <u8 (n,) from a table."""

    table: str
    ids: bytes


class Evicted(Message, frozen=True):
    """How many rows were removed."""

    rows: int


class PutDense(Request, frozen=True):
    """Publishes a version of dense parameters."""

    name: Name
    version: Natural
    step: Natural
    payload: bytes


class DensePut(Message, frozen=True):
    """Whether the version was newer than the stored one, and so was stored."""

    stored: bool


class GetDense(Request, frozen=True):
    """Asks for dense parameters above a version."""

    name: str
    newer_than: int


class DenseIs(Message, frozen=True):
    """The newest version (version, step, payload), or none above the one named."""

    found: tuple[int, int, bytes] | None


class Checkpoint(Request, frozen=True):
    """Asks for a checkpoint, under a name or (empty) without one."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]*$", max_length=200)]


class Restore(Request, frozen=True):
    """Asks to return to the newest checkpoint of a name."""

    name: Name


class Keep(Request, frozen=True):
    """Asks to drop the checkpoints named `prefix` and a number, but for those that `names` has."""

    prefix: Annotated[str, Meta(pattern=rf"^{POINT}[A-Za-z0-9_.-]*$", max_length=200)]
    names: tuple[str, ...]


class Dropped(Message, frozen=True):
    """How many checkpoints were dropped."""

    checkpoints: int


class CheckpointIs(Message, frozen=True):
    """A checkpoint that is on the shard's disk, and the clock and epoch that the shard is at with it."""

    file: str
    clock: int
    epoch: int


class Why(Request, frozen=True):
    """Asks for all that is known of one id."""

    table: str
    id: Annotated[int, Meta(ge=0)]


class RowIs(Message, frozen=True):
    """One id at `clock`: its row and its version, or neither where it has none.

    `removed_at` is the clock of its last removal that is remembered; `uses` counts pushes, in tables of
    several widths, `sightings` those without a row; `last_use` and `expires_at` are in milliseconds of event
    time, None for never; `vector` what a pull answers.
    """

    clock: int
    epoch: int
    row: int | None
    width: int
    version: int | None
    removed_at: int | None
    state_norm: float | None
    uses: int
    sightings: int
    last_use: int | None
    expires_at: int | None
    vector: list[float]


class Health(Request, frozen=True):
    """Asks whether the shard serves."""


class Healthy(Message, frozen=True):
    """The shard serves; so many requests are under way, of so many allowed."""

    requests: int
    allowed: int


ACTIONS: Final[dict[str, type[Request]]] = {
    "state": State,
    "stats": Stats,
    "digest": Digest,
    "evict": Evict,
    "put_dense": PutDense,
    "get_dense": GetDense,
    "checkpoint": Checkpoint,
    "restore": Restore,
    "keep": Keep,
    "health": Health,
    "why": Why,
}
"""The Flight actions and the request that each takes."""

NAMES: Final = {kind: name for name, kind in ACTIONS.items()}

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: object, kind: type[M]) -> M:
    """The message in `data`, any bytes-like object.

    Raises:
        InvalidRequest: it is not a well-formed `kind`.
    """
    try:
        return msgspec.msgpack.decode(memoryview(data), type=kind)  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise InvalidRequest(f"{kind.__name__}: {error}") from error
