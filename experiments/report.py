"""What an experiment found: means with confidence intervals as a table and a plot. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CONFIDENCE: Final = 0.95
_INCHES: Final = (4.2, 3.2)


@dataclass(frozen=True, slots=True)
class Found:
    """The AUCs f64 (seeds, arms, T) of one log, arms in the order that the claim expects them to rise."""

    log: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    aucs: NDArray[np.float64]

    @classmethod
    def of(cls, log: str, tasks: tuple[str, ...], by_seed: Sequence[Mapping[str, list[float]]]) -> Found:
        """From each seed's AUCs by arm."""
        arms = tuple(by_seed[0])
        return cls(log, tasks, arms, np.array([[found[arm] for arm in arms] for found in by_seed]))

    def table(self) -> list[str]:
        """Rows of the table: the AUC of each arm, and its difference from the last one, seed by seed."""
        rows = []
        for number, task in enumerate(self.tasks):
            for at, arm in enumerate(self.arms):
                values = self.aucs[:, at, number]
                less = values - self.aucs[:, -1, number]
                difference = "" if at == len(self.arms) - 1 else interval(less, sign="+")
                rows.append(f"| {self.log} | {task} | {arm} | {interval(values)} | {difference} |")
        return rows


def interval(values: NDArray[np.float64], sign: str = "") -> str:
    """The mean of `values` (n,) with half the width of its 95 % confidence interval (Student's t)."""
    return f"{values.mean():{sign}.4f} ± {half_width(values):.4f}"


def half_width(values: NDArray[np.float64]) -> float:
    """Half the width of the 95 % confidence interval of the mean of `values` (n,); NaN for one value."""
    if len(values) < 2:  # noqa: PLR2004 - one value has no spread
        return float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * spread)


def markdown(found: Sequence[Found]) -> str:
    """The table of all logs."""
    head = ["| log | task | arm | AUC | less the last arm |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row for one in found for row in one.table())]) + "\n"


def plot(found: Sequence[Found], title: str, path: Path) -> None:
    """Write the differences from the last arm, by log and task, to the SVG `path`."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not a role's

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "headwater"
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend

    panels = [(one, number) for one in found for number in range(len(one.tasks))]
    size = (_INCHES[0] * len(panels), _INCHES[1])
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, (one, number) in zip(axes[0], panels, strict=True):
        _panel(axis, one, number)
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axis: Any, one: Found, number: int) -> None:
    less = one.aucs[:, :, number] - one.aucs[:, -1:, number]
    places = range(len(one.arms))
    widths = [half_width(less[:, at]) for at in places]
    axis.errorbar(places, less.mean(axis=0), yerr=widths, fmt="o-", capsize=4)
    axis.axhline(0, linewidth=0.5, color="grey")
    axis.set_xticks(
        places, [arm.replace(", ", ",\n").replace(" shards ", "\nshards ") for arm in one.arms], fontsize=7
    )
    axis.set_title(f"{one.log}: {one.tasks[number]}", fontsize=9)
    axis.set_ylabel(f"AUC less that of {one.arms[-1]!r}", fontsize=8)
