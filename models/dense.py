"""Dense parameters as bytes, for publishing and for loading.

The payload is safe to read from anyone: MessagePack of (name, dtype, shape, raw little-endian bytes).
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import nn

RANKER = "ranker"
"""The name under which the ranker's dense parameters are published."""
HOLD = "hold"
"""Beside them: why replicas are to stay as they are, as UTF-8; empty where they may go on."""


class PayloadError(ValueError):
    """A payload does not hold the parameters of this module."""


class _Array(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def dump_payload(module: nn.Module) -> bytes:
    """The parameters and buffers of `module`."""
    arrays = []
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().numpy()
        arrays.append(_Array(name, values.dtype.str, values.shape, values.tobytes()))
    return msgspec.msgpack.encode(arrays)


def load_payload(module: nn.Module, payload: bytes) -> None:
    """Puts the parameters of `payload` into `module`.

    Raises:
        PayloadError: the payload is damaged, or its names and shapes are not those of `module`, which is then
            as it was.
    """
    try:
        arrays = msgspec.msgpack.decode(payload, type=list[_Array])
        state = {
            a.name: torch.from_numpy(np.frombuffer(a.data, np.dtype(a.dtype)).reshape(a.shape).copy())
            for a in arrays
        }
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise PayloadError(f"payload: {error}") from error
    want = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    have = {name: tuple(t.shape) for name, t in state.items()}
    if want != have:
        odd = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
        raise PayloadError(f"payload: {odd[0]} is {have.get(odd[0])}; legal is {want.get(odd[0])}")
    module.load_state_dict(state)
