"""A delta while it is made: chunks cut from a sweep, sealed at the end by what the sweep ended at.

Knows neither tables nor network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from parameter_server import packing
from parameter_server.delta import Changes, Chunk, Delta, Span, Trace, seal_of, sealed
from parameter_server.sweep import Sweep
from schema.config import ParameterServerConfig


class DeltaStream:
    """One delta of `start`; its `sweep` is set before it is read, once.

    Args:
        start: where it leads from; `to_clock` is not final yet.
        config: how rows are packed.
    """

    def __init__(self, start: Span, config: ParameterServerConfig) -> None:
        self.start = start
        self.sweep: Sweep | None = None
        self._rows = config.replica_rows
        self._end: Delta | None = None
        self._checksums: list[int] = []

    def end(self, clock: int, steps: Mapping[str, int], traces: tuple[Trace, ...]) -> None:
        """Called by the sweep under the shard's lock, at its end."""
        self._end = Delta(replace(self.start, to_clock=clock), dict(steps), traces, 0, ())

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks, in order."""
        assert self.sweep is not None, "a stream is read after it was given its sweep"  # noqa: S101
        for sequence, part in enumerate(self.sweep):
            vectors = packing.pack(np.ascontiguousarray(part.columns["vectors"]), self._rows)
            chunk = sealed(
                self.start, part.table, sequence, Changes(part.columns["ids"], vectors, part.removed)
            )
            self._checksums.append(chunk.checksum)
            yield chunk

    @property
    def open(self) -> bool:
        """Whether what is pushed now may still become part of it."""
        return self._end is None

    @property
    def trailer(self) -> Delta:
        """The delta without its chunks; only after all of them were read."""
        assert self._end is not None, "a stream ends after its chunks"  # noqa: S101
        end = replace(self._end, count=len(self._checksums))
        return replace(end, seal=seal_of(end, self._checksums))

    def collected(self) -> Delta:
        """The whole delta."""
        chunks = tuple(self)
        return replace(self.trailer, chunks=chunks)
