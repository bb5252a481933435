"""What each optimizer keeps a row and how it starts, so that rows can be made, updated and resized.

A row's state is one block a state vector, each as wide as the row, then the scalars:

    sgd              nothing
    adagrad          sum of squares (w)
    rowwise_adagrad  sum of mean squares
    adam             first moments (w), second moments (w), count of updates
    ftrl             z (w), n (w)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from parameter_server.kernels import steps
from schema.config import OptimizerConfig, TableConfig
from schema.records import F32, I64, U64

_SLOT_SHIFT: Final = np.uint64(48)


@dataclass(frozen=True, slots=True)
class Rule:
    """One configured optimizer.

    Args:
        config: its parameters.
        kernel: its number in `kernels/steps.py`.
        blocks: the first value of each state vector.
        scalars: the first value of each scalar.
        own: the three values that the kernel takes after rate and decay.
    """

    config: OptimizerConfig
    kernel: int
    blocks: tuple[float, ...]
    scalars: tuple[float, ...]
    own: tuple[float, float, float]

    @property
    def parameters(self) -> tuple[float, float, float, float, float]:
        """What the kernel takes: rate, decay and `own`."""
        return self.config.learning_rate, self.config.weight_decay, *self.own

    def state_width(self, width: int) -> int:
        """float32 values of state of a row `width` wide."""
        return len(self.blocks) * width + len(self.scalars)

    def start(self, vectors: F32) -> F32:
        """The state (n, state_width) of new rows with `vectors` (n, w)."""
        state = np.empty((len(vectors), self.state_width(vectors.shape[1])), np.float32)
        self._fill(state, vectors.shape[1])
        if self.config.kind == "ftrl":
            state[:, : vectors.shape[1]] = self._ftrl_start(vectors)
        return state

    def _fill(self, state: F32, width: int) -> None:
        for number, value in enumerate(self.blocks):
            state[:, number * width : (number + 1) * width] = value
        state[:, len(self.blocks) * width :] = self.scalars

    def _ftrl_start(self, vectors: F32) -> F32:
        """The z of which FTRL's closed form makes `vectors`: else the first update would forget them."""
        c = self.config
        scale = (c.ftrl_beta + c.initial_accumulator**0.5) / c.learning_rate + c.l2
        return -(vectors * np.float32(scale) + np.sign(vectors) * np.float32(c.l1)).astype(np.float32)

    def resized(self, state: F32, before: int, after: int) -> F32:
        """The state of rows whose width goes from `before` to `after`: what both have stays as it is."""
        out = np.empty((len(state), self.state_width(after)), np.float32)
        self._fill(out, after)
        both = min(before, after)
        for number in range(len(self.blocks)):
            out[:, number * after : number * after + both] = state[
                :, number * before : number * before + both
            ]
        count = len(self.blocks)
        scalars = state[:, count * before : count * before + len(self.scalars)]
        out[:, count * after :] = scalars
        return out


def rule(config: OptimizerConfig) -> Rule:
    """The optimizer that `config` names."""
    return _RULES[config.kind](config)


def _sgd(c: OptimizerConfig) -> Rule:
    return Rule(c, steps.SGD, (), (), (0.0, 0.0, 0.0))


def _adagrad(c: OptimizerConfig) -> Rule:
    return Rule(c, steps.ADAGRAD, (c.initial_accumulator,), (), (c.epsilon, 0.0, 0.0))


def _rowwise_adagrad(c: OptimizerConfig) -> Rule:
    return Rule(c, steps.ROWWISE_ADAGRAD, (), (c.initial_accumulator,), (c.epsilon, 0.0, 0.0))


def _adam(c: OptimizerConfig) -> Rule:
    return Rule(c, steps.ADAM, (0.0, 0.0), (0.0,), (c.epsilon, c.beta1, c.beta2))


def _ftrl(c: OptimizerConfig) -> Rule:
    return Rule(c, steps.FTRL, (0.0, c.initial_accumulator), (), (c.l1, c.l2, c.ftrl_beta))


_RULES: Final[dict[str, Callable[[OptimizerConfig], Rule]]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rowwise_adagrad": _rowwise_adagrad,
    "adam": _adam,
    "ftrl": _ftrl,
}


class Kinds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which kinds of optimizers the state of a table's rows is of: `default`, and that of some slots."""

    default: str
    slots: dict[int, str]

    @classmethod
    def of(cls, table: TableConfig) -> Self:
        """As configured."""
        slots = {slot: own.optimizer for slot, own in table.slots.items() if own.optimizer is not None}
        return cls(table.optimizer.kind, {slot: config.kind for slot, config in slots.items()})

    def kind(self, slot: int) -> str:
        """That of the rows of `slot`."""
        return self.slots.get(slot, self.default)

    def others(self, configured: Kinds, ids: U64) -> str | None:
        """Names a slot of `ids` (n,) whose rows are of another kind than `configured`; None if none is."""
        if self == configured:
            return None
        for slot in np.unique(ids >> _SLOT_SHIFT).tolist():
            have, want = self.kind(slot), configured.kind(slot)
            if have != want:
                return f"optimizer of slot {slot}: {have} in the checkpoint; configured is {want}"
        return None


class Optimizers:
    """The optimizers of a table: one for all, and others for some slots (the upper 16 bits of an id).

    Args:
        default: for slots that `by_slot` does not name.
        by_slot: configured ones, by slot.
    """

    def __init__(self, default: OptimizerConfig, by_slot: dict[int, OptimizerConfig]) -> None:
        configs = list(dict.fromkeys([default, *by_slot.values()]))
        self.rules = tuple(rule(config) for config in configs)
        self._of_slot: dict[int, int] = {slot: configs.index(c) for slot, c in by_slot.items()}
        self._table: NDArray[np.uint8] | None = None
        if len(self.rules) > 1:
            self._table = np.zeros(1 << 16, np.uint8)
            self._table[list(self._of_slot)] = list(self._of_slot.values())

    @property
    def single(self) -> Rule | None:
        """The one optimizer of all slots, if there is but one."""
        return self.rules[0] if len(self.rules) == 1 else None

    @property
    def scalar(self) -> bool:
        """Whether all that a row of any slot keeps is one value."""
        return self.single is not None and self.single.state_width(1) == self.single.state_width(2) == 1

    def state_width(self, width: int) -> int:
        """float32 values that suffice for the state of any row `width` wide."""
        return max(r.state_width(width) for r in self.rules)

    def parts(self, ids: U64) -> list[tuple[Rule, I64]]:
        """The optimizers of `ids` (n,), each with the positions of its ids, ascending; none empty."""
        if self._table is None:
            return [(self.rules[0], np.arange(len(ids)))] if len(ids) else []
        numbers = self._table[ids >> _SLOT_SHIFT]
        parts = [(r, np.flatnonzero(numbers == number)) for number, r in enumerate(self.rules)]
        return [(r, positions) for r, positions in parts if len(positions)]
