"""The rows that a step trains on, as everything that learns from them sees them.

Made of blocks as the topic has them (`trainer.columns.rows`), or by hand (`trainer.pieces`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.batch import Batch, Collator
from schema.records import F32, I64, U64


class Moments(NamedTuple):
    """When a request was made, its labels complete, and its block emitted; Unix ms."""

    event_time: int
    completed_at: int
    joined_at: int


class Rows(ABC):
    """n rows of R requests and T tasks, the rows of a request side by side. Nobody changes the arrays."""

    @abstractmethod
    def counts(self) -> I64:
        """How many rows each request has, shape (R,)."""

    @abstractmethod
    def items(self) -> I64:
        """Shape (n,)."""

    @abstractmethod
    def labels(self) -> F32:
        """Shape (n, T). Labels that do not count are kept within 0 to 1 (0 for NaN), whatever they were."""

    @abstractmethod
    def mask(self) -> F32:
        """1 where a pair is to be trained, shape (n, T)."""

    @abstractmethod
    def retract(self) -> F32 | None:
        """1 where a pair takes back the negative that it was, shape (n, T); None where none does."""

    @abstractmethod
    def log_keep(self) -> F32:
        """Shape (n,)."""

    @abstractmethod
    def propensities(self) -> F32 | None:
        """With what odds each row was shown, shape (n,), 0 where not known; None if it is of no row."""

    @abstractmethod
    def late(self) -> I64:
        """1 for each request whose rows have been trained before, shape (R,).

        They are here for what became known of them since.
        """

    @abstractmethod
    def event_times(self) -> I64:
        """Of each request, in ms, shape (R,)."""

    @abstractmethod
    def users(self) -> I64:
        """Of each request, shape (R,)."""

    @abstractmethod
    def surfaces(self) -> I64:
        """Of each request, shape (R,)."""

    @abstractmethod
    def moments(self, requests: Sequence[int]) -> list[Moments]:
        """Those of some requests."""

    @abstractmethod
    def traces(self) -> I64:
        """Of each request as `schema.stages.trace_of` has it, shape (R,)."""

    @abstractmethod
    def context_ids(self, slot: int, requests: I64) -> tuple[U64, I64]:
        """The ids of the context slot of that number of some requests (k,), and how many each has (k,)."""

    @abstractmethod
    def item_ids(self, slot: int) -> tuple[U64, I64]:
        """The ids of the item slot of that number, and how many each row has (n,)."""

    @abstractmethod
    def collated(self, collator: Collator) -> Batch:
        """What the model sees of them."""

    def __len__(self) -> int:
        return len(self.log_keep())

    def newly_known(self) -> F32:
        """As `mask`, but 0 for the late rows, which were counted before."""
        late, mask = self.late(), self.mask()
        return mask * (1 - self.each(late))[:, None].astype(np.float32) if late.any() else mask

    def late_rows(self) -> int:
        """How many rows have been trained before."""
        return int(self.counts() @ self.late())

    def weights(self) -> F32:
        """What each row counts for in the evaluation, shape (n,): one over the chance of having been kept.

        Where nobody engaged, that is; rows with a positive label are all kept.
        """
        engaged = self.labels().max(axis=1) > 0
        weights: F32 = np.where(engaged, 1, np.exp(-self.log_keep())).astype(np.float32)
        return weights

    def each(self, values: I64) -> I64:
        """`values` (R,), one a request, for each row, shape (n,)."""
        return np.repeat(values, self.counts())
