"""The optimizers' loops: each updates vectors[rows] and their state in place from gradients[places].

State is a flat float32 array: that of a row starts at row * stride + offset, laid out as `optimizers.py` of
the package says. Only the first w columns of a gradient count, w being the width of `vectors`. Weight decay
is added to the gradient first (decay * w), as torch does. Rows are distinct.
"""

# ruff: noqa: PLR0917 - all optimizers share one signature
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.cuckoo import ask, probe, settle
from parameter_server.kernels.prefetch import GROUP, prefetch
from parameter_server.kernels.rows import HALVES, OTHER, ask_vectors, touch_one
from parameter_server.kernels.signatures import (
    F32,
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    F32_OUT,
    F64,
    I64,
    I64_IN,
    I64_OUT,
    U32,
    U32_OUT,
    U64,
    U64_IN,
    U64_OUT,
    VOID,
    kernel,
)

_LINE: Final = 16
_UPDATE: Final = VOID(
    F32_MATRIX_OUT, F32_OUT, I64, I64, I64_IN, I64_IN, F32_MATRIX_IN, F64, F64, F64, F64, F64
)
"""vectors, state, stride, offset, rows, places, gradients, rate, decay, and three values of the optimizer."""


@kernel(VOID(F32_MATRIX_IN, F32_OUT, I64, I64, I64_IN, I64, I64))
def _ask(vectors: Any, state: Any, stride: Any, offset: Any, rows: Any, start: Any, stop: Any) -> None:
    ask_vectors(vectors, rows, start, stop)
    for i in range(start, stop):
        base = rows[i] * stride + offset
        for j in range(base, base + stride - offset, _LINE):
            prefetch(state, j)


@kernel(_UPDATE)
def sgd(
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    _a: Any,
    _b: Any,
    _c: Any,
) -> None:
    """W -= rate * g."""
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        ask_vectors(vectors, rows, start, stop)
        for i in range(start, stop):
            row, place = rows[i], places[i]
            for j in range(vectors.shape[1]):
                g = gradients[place, j] + decay * vectors[row, j]
                vectors[row, j] -= rate * g


@kernel(_UPDATE)
def adagrad(
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
    _b: Any,
    _c: Any,
) -> None:
    """S += g ** 2; w -= rate * g / (sqrt(s) + epsilon), each value on its own (Duchi et al., JMLR 2011)."""
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        _ask(vectors, state, stride, offset, rows, start, stop)
        for i in range(start, stop):
            row, place = rows[i], places[i]
            base = row * stride + offset
            for j in range(vectors.shape[1]):
                g = gradients[place, j] + decay * vectors[row, j]
                state[base + j] += g * g
                vectors[row, j] -= rate * g / (np.sqrt(np.float64(state[base + j])) + epsilon)


@kernel(_UPDATE)
def adam(
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
    beta1: Any,
    beta2: Any,
) -> None:
    """Adam (Kingma and Ba, ICLR 2015) with the bias correction of the row's own count of updates.

    State: first moments (w), second moments (w), count.
    """
    width = vectors.shape[1]
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        _ask(vectors, state, stride, offset, rows, start, stop)
        for i in range(start, stop):
            row, place = rows[i], places[i]
            first = row * stride + offset
            second = first + width
            count = state[second + width] + np.float32(1.0)
            state[second + width] = count
            step = rate / (1.0 - beta1 ** np.float64(count))
            correction = np.sqrt(1.0 - beta2 ** np.float64(count))
            for j in range(width):
                g = gradients[place, j] + decay * vectors[row, j]
                state[first + j] = beta1 * state[first + j] + (1.0 - beta1) * g
                state[second + j] = beta2 * state[second + j] + (1.0 - beta2) * g * g
                root = np.sqrt(np.float64(state[second + j])) / correction
                vectors[row, j] -= step * state[first + j] / (root + epsilon)


@kernel(_UPDATE)
def ftrl(
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    l1: Any,
    l2: Any,
    beta: Any,
) -> None:
    """FTRL-proximal (McMahan et al., "Ad Click Prediction", KDD 2013), each value on its own.

    State: z (w), n (w). sigma = (sqrt(n + g ** 2) - sqrt(n)) / rate; z += g - sigma * w; n += g ** 2;
    w = 0 where |z| <= l1, else (sign(z) * l1 - z) / ((beta + sqrt(n)) / rate + l2).
    """
    width = vectors.shape[1]
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        _ask(vectors, state, stride, offset, rows, start, stop)
        for i in range(start, stop):
            row, place = rows[i], places[i]
            first = row * stride + offset
            second = first + width
            for j in range(width):
                weight = np.float64(vectors[row, j])
                g = gradients[place, j] + decay * weight
                before = np.float64(state[second + j])
                after = before + g * g
                z = state[first + j] + g - (np.sqrt(after) - np.sqrt(before)) / rate * weight
                state[first + j] = z
                state[second + j] = after
                excess = abs(z) - l1
                scale = (beta + np.sqrt(after)) / rate + l2
                vectors[row, j] = -np.sign(z) * excess / scale if excess > 0.0 else 0.0


@kernel(F32(F32_MATRIX_IN, I64, F32_MATRIX_IN, I64, F32), reorder_sums=True)
def _decayed_mean_square(vectors: Any, row: Any, gradients: Any, place: Any, decay: Any) -> Any:
    total = np.float32(0.0)
    for j in range(vectors.shape[1]):
        g = gradients[place, j] + decay * vectors[row, j]
        total += g * g
    return total / np.float32(vectors.shape[1])


@kernel(VOID(F32_MATRIX_OUT, F32_OUT, I64, I64, F32_MATRIX_IN, I64, F32, F32, F32))
def _rowwise_one(
    vectors: Any,
    state: Any,
    cell: Any,
    row: Any,
    gradients: Any,
    place: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
) -> None:
    accumulator = state[cell] + _decayed_mean_square(vectors, row, gradients, place, decay)
    state[cell] = accumulator
    step = rate / (np.sqrt(accumulator) + epsilon)
    for j in range(vectors.shape[1]):
        vectors[row, j] -= step * (gradients[place, j] + decay * vectors[row, j])


@kernel(_UPDATE)
def rowwise_adagrad(
    vectors: Any,
    state: Any,
    stride: Any,
    offset: Any,
    rows: Any,
    places: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
    _b: Any,
    _c: Any,
) -> None:
    """S += mean(g ** 2); w -= rate * g / (sqrt(s) + epsilon): Adagrad with one accumulator a row."""
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        ask_vectors(vectors, rows, start, stop)
        for i in range(start, stop):
            prefetch(state, rows[i] * stride + offset)
        for i in range(start, stop):
            _rowwise_one(
                vectors,
                state,
                rows[i] * stride + offset,
                rows[i],
                gradients,
                places[i],
                np.float32(rate),
                np.float32(decay),
                np.float32(epsilon),
            )


@kernel(
    I64(
        U64_IN,
        U64_IN,
        U64_IN,
        U64_OUT,
        U32_OUT,
        F32_OUT,
        U64_OUT,
        F32_MATRIX_OUT,
        U64_IN,
        F32_MATRIX_IN,
        F32,
        F32,
        F32,
        U64,
        U32,
        I64_OUT,
    )
)
def lookup_rowwise_adagrad(
    old: Any,
    new: Any,
    sequence: Any,
    records: Any,
    halves: Any,
    state: Any,
    summary: Any,
    vectors: Any,
    wanted: Any,
    gradients: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
    clock: Any,
    event_second: Any,
    rows: Any,
) -> Any:
    """Find and touch the rows of the distinct `wanted` (n,) and update them, all in one pass; how many miss.

    `rows` (n,) becomes the row of each, -1 for those that are missing, which stay as they are. `halves` and
    `state` are views of `records`: the accumulator lies in the record, so that one miss brings both.
    """
    n = len(wanted)
    missing = np.int64(0)
    hashes = np.empty(n, np.uint64)
    for start in range(0, n + 3 * GROUP, GROUP):
        before, then, last = max(start - GROUP, 0), max(start - 2 * GROUP, 0), max(start - 3 * GROUP, 0)
        ask(new, wanted, hashes, start, min(start + GROUP, n))
        probe(new, records, hashes, rows, before, min(start, n))
        ask_vectors(vectors, rows, before, min(start, n))
        settle(old, new, sequence, records, wanted, hashes, rows, then, min(start - GROUP, n))
        for i in range(last, min(start - 2 * GROUP, n)):
            row = rows[i]
            if row < 0:
                missing += 1
            else:
                _rowwise_one(vectors, state, row * HALVES + OTHER, row, gradients, i, rate, decay, epsilon)
                touch_one(records, halves, summary, row, clock, event_second)
    return missing
