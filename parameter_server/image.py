"""What a checkpoint keeps of a shard, as values: knows no files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from parameter_server.dense import DenseVersion
from parameter_server.optimizers import Kinds
from parameter_server.sweep import Part, Sweep
from schema.records import U8, U64


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a shard stood: its clock, each trainer's last step, and the dense versions.

    `candidates` are the ids (n,) that have no row yet, by table, and how many pushes each has had (n,).
    """

    clock: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    dense: Mapping[str, DenseVersion] = field(default_factory=dict)
    candidates: Mapping[str, tuple[U64, U8]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardImage:
    """All of a shard at one clock. `parts` are replayed in order, once; reading them may fail.

    Tombstones are not in it: a restored shard has a new epoch, so every replica takes a full snapshot.
    `kept` is how many rows the image should have after all parts, by table; None where that is not known.
    `optimizers` says what the rows' state is of, by table.
    """

    marks: Marks = field(default_factory=Marks)
    parts: Iterable[Part] = ()
    kept: Mapping[str, int] | None = None
    optimizers: Mapping[str, Kinds] = field(default_factory=dict)


class Saving:
    """What changed in a shard since a clock, and at the end of iterating it once, the marks then."""

    def __init__(self) -> None:
        self.sweep: Sweep | None = None
        self.marks = Marks()
        self.kept: dict[str, int] = {}

    def __iter__(self) -> Iterator[Part]:
        """The parts, in order."""
        assert self.sweep is not None, "a saving is iterated after it was given its sweep"  # noqa: S101
        return iter(self.sweep)
