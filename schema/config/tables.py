"""Embedding tables: widths, optimizers, admission, expiry."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schema.config.values import Count, Name, Positive, PositiveFloat, PositiveSeconds, Section


class OptimizerConfig(Section, frozen=True, kw_only=True):
    """How a row learns; `parameter_server/kernels/optimizers.py` has the formulas.

    `initial_accumulator` is where Adagrad's, row-wise Adagrad's and FTRL's sums of squares start. A gradient
    is first scaled down to `clip_norm`, if given, then gets `weight_decay` times the row.
    """

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"] = "rowwise_adagrad"
    learning_rate: PositiveFloat = 0.05
    initial_accumulator: Annotated[float, Meta(ge=0)] = 0.025
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    clip_norm: PositiveFloat | None = None
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    l1: Annotated[float, Meta(ge=0)] = 0.0
    l2: Annotated[float, Meta(ge=0)] = 0.0
    ftrl_beta: Annotated[float, Meta(ge=0)] = 1.0


class AdmissionConfig(Section, frozen=True, kw_only=True):
    """When an id gets a row of its own: at once, at its `threshold`-th push, or at each with `probability`.

    Until then it has its first vector and its gradients are dropped. Counts of at most `candidates` ids are
    kept, and halved every `ageing_seconds` of event time.
    """

    kind: Literal["all", "count", "probability"] = "all"
    threshold: Annotated[int, Meta(ge=1, le=255)] = 2
    probability: Annotated[float, Meta(gt=0, le=1)] = 0.5
    ageing_seconds: PositiveSeconds = 86400.0
    candidates: Positive = 1_000_000


class SlotRowsConfig(Section, frozen=True, kw_only=True):
    """What the rows of one slot have of their own; unset is as the table has it."""

    optimizer: OptimizerConfig | None = None
    ttl_seconds: PositiveSeconds | None = None


DEFAULT_WIDTHS = (4, 8, 16, 32)
"""Of a table whose rows grow."""
SlotNumber = Annotated[int, Meta(ge=0, le=65535)]


class TableConfig(Section, frozen=True, kw_only=True):
    """One embedding table. An unseen id starts uniform in ±`init_scale`, a function of (`seed`, id) alone.

    A row without a push for `ttl_seconds` of event time is evicted; so are the least recently used while the
    table is above `memory_mb`, until it is a tenth below. `slots` overrides by slot (an id's upper 16 bits).

    With `grow_at` a row starts with the first of `widths`, ascending and the last one `dim`, and takes the
    next at its grow_at[i]-th push; unset, they are 4, 8, 16 and 32 as far as they are below `dim`, and `dim`.
    What a row lacks reads as 0; the ranker projects each slot's vectors. Above `memory_mb` the least used
    shrink first.
    """

    name: Name
    dim: Annotated[int, Meta(ge=1, le=1024)] = 16
    optimizer: OptimizerConfig = OptimizerConfig()
    init_scale: Annotated[float, Meta(ge=0)] = 0.01
    seed: Count = 0
    capacity: Annotated[int, Meta(ge=16)] = 65536
    admission: AdmissionConfig = AdmissionConfig()
    ttl_seconds: PositiveSeconds | None = None
    memory_mb: PositiveFloat | None = None
    widths: tuple[Positive, ...] = ()
    grow_at: tuple[Positive, ...] = ()
    slots: dict[SlotNumber, SlotRowsConfig] = msgspec.field(default_factory=dict)

    @property
    def classes(self) -> tuple[int, ...]:
        """The widths that a row can have, ascending; the last one is `dim`."""
        if self.grow_at and not self.widths:
            return *(width for width in DEFAULT_WIDTHS if width < self.dim), self.dim
        return self.widths or (self.dim,)
