"""What each optimizer does to one row: its vector and its state, in place, from one gradient.

The row's vector is row `w` of `weights`, its gradient row `g` of `gradients`, of which the width of `weights`
counts, and its state starts at `s` of the flat `state`. Weight decay is added to the gradient first (decay *
weight), as torch does. These functions are pasted into the loops of `optimizers.py`.

Rows and places are uint64: numba lets a signed index count from the end, which costs a choice an access.
"""

# ruff: noqa: PLR0917 - all optimizers share one signature
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import inlined

SGD: Final = 0
ADAGRAD: Final = 1
ROWWISE_ADAGRAD: Final = 2
ADAM: Final = 3
FTRL: Final = 4


@inlined
def _sgd(
    weights: Any,
    w: Any,
    gradients: Any,
    g: Any,
    rate: Any,
    decay: Any,
) -> None:
    """W -= rate * g."""
    for j in range(weights.shape[1]):
        weights[w, j] -= rate * (gradients[g, j] + decay * weights[w, j])


@inlined
def _adagrad(
    weights: Any,
    w: Any,
    state: Any,
    s: Any,
    gradients: Any,
    g: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
) -> None:
    """S += g ** 2; w -= rate * g / (sqrt(s) + epsilon), each value on its own (Duchi et al., JMLR 2011)."""
    for j in range(weights.shape[1]):
        place = s + np.uint64(j)
        gradient = gradients[g, j] + decay * weights[w, j]
        state[place] += gradient * gradient
        weights[w, j] -= rate * gradient / (np.sqrt(np.float64(state[place])) + epsilon)


@inlined
def _rowwise_adagrad(
    weights: Any,
    w: Any,
    state: Any,
    s: Any,
    gradients: Any,
    g: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
) -> None:
    """S += mean(g ** 2); w -= rate * g / (sqrt(s) + epsilon): Adagrad with one accumulator a row."""
    narrow = np.float32(decay)
    total = np.float32(0.0)
    for j in range(weights.shape[1]):
        gradient = gradients[g, j] + narrow * weights[w, j]
        total += gradient * gradient
    accumulator = state[s] + total / np.float32(weights.shape[1])
    state[s] = accumulator
    pace = np.float32(rate) / (np.sqrt(accumulator) + np.float32(epsilon))
    for j in range(weights.shape[1]):
        weights[w, j] -= pace * (gradients[g, j] + narrow * weights[w, j])


@inlined
def _adam(
    weights: Any,
    w: Any,
    state: Any,
    s: Any,
    gradients: Any,
    g: Any,
    rate: Any,
    decay: Any,
    epsilon: Any,
    beta1: Any,
    beta2: Any,
) -> None:
    """Adam (Kingma and Ba, ICLR 2015) with the bias correction of the row's own count of updates.

    State: first moments (w), second moments (w), count.
    """
    width = np.uint64(weights.shape[1])
    count = state[s + width + width] + np.float32(1.0)
    state[s + width + width] = count
    pace = rate / (1.0 - beta1 ** np.float64(count))
    correction = np.sqrt(1.0 - beta2 ** np.float64(count))
    for j in range(weights.shape[1]):
        place = s + np.uint64(j)
        gradient = gradients[g, j] + decay * weights[w, j]
        first = beta1 * state[place] + (1.0 - beta1) * gradient
        second = beta2 * state[place + width] + (1.0 - beta2) * gradient * gradient
        state[place] = first
        state[place + width] = second
        weights[w, j] -= pace * first / (np.sqrt(second) / correction + epsilon)


@inlined
def _ftrl(
    weights: Any,
    w: Any,
    state: Any,
    s: Any,
    gradients: Any,
    g: Any,
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
    width = np.uint64(weights.shape[1])
    for j in range(weights.shape[1]):
        place = s + np.uint64(j)
        weight = np.float64(weights[w, j])
        gradient = gradients[g, j] + decay * weight
        before = np.float64(state[place + width])
        after = before + gradient * gradient
        z = state[place] + gradient - (np.sqrt(after) - np.sqrt(before)) / rate * weight
        state[place] = z
        state[place + width] = after
        excess = max(abs(z) - l1, 0.0)
        weights[w, j] = -np.sign(z) * excess / ((beta + np.sqrt(after)) / rate + l2)


@inlined
def step(
    kind: Any,
    weights: Any,
    w: Any,
    state: Any,
    s: Any,
    gradients: Any,
    g: Any,
    rate: Any,
    decay: Any,
    a: Any,
    b: Any,
    c: Any,
) -> None:
    """One step of the optimizer of number `kind`; a, b and c are values of its own."""
    if kind == ROWWISE_ADAGRAD:
        _rowwise_adagrad(weights, w, state, s, gradients, g, rate, decay, a)
    elif kind == SGD:
        _sgd(weights, w, gradients, g, rate, decay)
    elif kind == ADAGRAD:
        _adagrad(weights, w, state, s, gradients, g, rate, decay, a)
    elif kind == ADAM:
        _adam(weights, w, state, s, gradients, g, rate, decay, a, b, c)
    else:
        _ftrl(weights, w, state, s, gradients, g, rate, decay, a, b, c)
