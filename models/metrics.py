"""Streaming metrics of binary predictions: AUC, normalised entropy, calibration, log loss, by task.

State is a few counts a task, however many rows pass, and two states add up: windows merge into periods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import kernels

BINS = 8192

F64 = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]


@dataclass
class TaskMetrics:
    """Counts of T tasks. Predictions are probabilities.

    The AUC comes from histograms of the logit: `BINS` equal bins over ±16, ties within a bin counted half.
    Its distance from the exact AUC is at most the share of (positive, negative) pairs that fall in one bin.
    """

    tasks: int
    positives: F64 = field(init=False)
    negatives: F64 = field(init=False)
    predicted: F64 = field(init=False)
    log_loss: F64 = field(init=False)

    def __post_init__(self) -> None:
        self.positives = np.zeros((self.tasks, BINS))
        self.negatives = np.zeros((self.tasks, BINS))
        self.predicted = np.zeros(self.tasks)
        self.log_loss = np.zeros(self.tasks)

    def update(self, predictions: Reals, labels: Reals, mask: Reals, weights: Reals | None = None) -> None:
        """Counts n rows: three arrays of shape (n, T). Where `mask` is 0 the pair does not count.

        `weights` (n,) is what each row counts for, such as one over its chance to be kept; 1 if None.

        Raises:
            ValueError: a prediction that counts is not in [0, 1], or is not a number.
        """
        counted = kernels.tally(
            np.ascontiguousarray(predictions, np.float64),
            np.ascontiguousarray(labels, np.float64),
            np.ascontiguousarray(mask, np.float64),
            np.ones(len(predictions)) if weights is None else np.ascontiguousarray(weights, np.float64),
            self.positives,
            self.negatives,
            self.predicted,
            self.log_loss,
        )
        if not counted:
            raise ValueError("predictions: one is not in 0 to 1; legal is a probability")

    def add(self, other: TaskMetrics) -> None:
        """Counts all that `other` has counted."""
        self.positives += other.positives
        self.negatives += other.negatives
        self.predicted += other.predicted
        self.log_loss += other.log_loss

    def counts(self) -> F64:
        """How many pairs each task has counted, by their weights, shape (T,)."""
        total: F64 = self.positives.sum(axis=1) + self.negatives.sum(axis=1)
        return total

    def auc(self) -> F64:
        """The area under the ROC curve, shape (T,); NaN where a class is missing."""
        below = np.cumsum(self.negatives, axis=1) - self.negatives / 2
        pairs = self.positives.sum(axis=1) * self.negatives.sum(axis=1)
        return _ratio((self.positives * below).sum(axis=1), pairs)

    def calibration(self) -> F64:
        """The sum of predictions over the sum of labels, shape (T,); NaN without positives."""
        return _ratio(self.predicted, self.positives.sum(axis=1))

    def mean_log_loss(self) -> F64:
        """The mean log loss in nats, shape (T,); NaN without rows."""
        return _ratio(self.log_loss, self.counts())

    def normalised_entropy(self) -> F64:
        """The log loss over the entropy of the mean label (He et al., ADKDD 2014), shape (T,)."""
        rate = _ratio(self.positives.sum(axis=1), self.counts())
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return _ratio(self.mean_log_loss(), entropy)


def _ratio(above: F64, below: F64) -> F64:
    out = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def grouped_auc(
    predictions: Reals, labels: Reals, groups: NDArray[np.integer[Any]], weights: Reals | None = None
) -> float:
    """The AUC within each group, averaged by the groups' rows; NaN if no group has both labels.

    All have shape (n,); `weights` is what each row counts for, 1 if None. Ties count half. Groups of one
    label say nothing of order and do not count (Zhu et al., "Optimized Cost per Click in Taobao Display
    Advertising", KDD 2017).
    """
    if not len(predictions):
        return float("nan")
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((predictions, group))
    group, score, positive = group[order], predictions[order], labels[order] > 0
    weight = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    opens = np.concatenate([[True], (group[1:] != group[:-1]) | (score[1:] != score[:-1])])
    tie = np.cumsum(opens) - 1
    tied = np.bincount(tie, weight * ~positive)
    positives, negatives = (np.bincount(group, weight * of) for of in (positive, ~positive))
    # the weight of the group's negatives that score less, those of equal score by half
    before = (np.cumsum(tied) - tied / 2)[tie] - (np.cumsum(negatives) - negatives)[group]
    above = np.bincount(group, weight * positive * before)
    pairs = positives * negatives
    counted = pairs > 0
    if not counted.any():
        return float("nan")
    return float(np.average(above[counted] / pairs[counted], weights=(positives + negatives)[counted]))
