"""The folder of a Parquet dump of sample blocks: what its file names say, and the columns that readers need.

Knows neither Arrow nor Kafka. A span is complete once its name lies in `_spans`; its rows are in one file of
the same name for each hour of event time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

BLOCK: Final = "block"
"""The block as it was sent, on the first of its rows, null on the others."""
SAMPLE_OFFSET: Final = "sample_offset"
"""The offset of the block's message in the samples topic; null where the block was never in one."""
SAMPLE_WITHIN: Final = "sample_within"
"""The number of the block in its message; null as well."""

_NAME: Final = re.compile(r"p(\d{5})-(\d{20})-(\d{20})\.parquet")


class Span(NamedTuple):
    """Offsets of a partition of the samples topic, from `start` up to but without `end`."""

    partition: int
    start: int
    end: int

    @property
    def file_name(self) -> str:
        """The name of its files."""
        return f"p{self.partition:05d}-{self.start:020d}-{self.end:020d}.parquet"


def spans(folder: Path) -> list[Span]:
    """What has been written completely, in order."""
    found = (_NAME.fullmatch(path.name) for path in (folder / "_spans").glob("*.parquet"))
    return sorted(Span(*map(int, match.groups())) for match in found if match)


def files(folder: Path, span: Span) -> list[Path]:
    """The files of `span`, by hour of event time."""
    return sorted(folder.glob(f"date=*/hour=*/{span.file_name}"))


def positions(folder: Path) -> dict[int, int]:
    """The offset at which each partition goes on."""
    ends: dict[int, int] = {}
    for span in spans(folder):
        ends[span.partition] = max(span.end, ends.get(span.partition, 0))
    return ends
