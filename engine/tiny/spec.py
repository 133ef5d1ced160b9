"""Tensors of the embedded model: a name, a shape, and values that are the same bytes on every machine.

Values come from integers (Philox, keyed by the tensor's name) by exactly rounded operations alone, so that neither
the mathematics library nor the version of numpy or torch can change a bit of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.tiny.vocabulary import unreadable_ids

FloatArray = npt.NDArray[np.float32]

_SEED = b"ming-flash-omni-2.0-tiny/1/"
_LANES = np.uint64(0x0000FFFF0000FFFF)
_LANE_SUM_MEAN = 2 * 65535
_LANE_SUM_STD = math.sqrt((65536**2 - 1) / 3)  # of the sum of four independent 16-bit numbers
_UNREADABLE_SCALE = np.float32(0.05)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the checkpoint and the distribution of its values."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Size in float32."""
        return 4 * math.prod(self.shape)


def tensor_values(spec: TensorSpec) -> FloatArray:
    """The values of one tensor, nearly normal around `spec.mean`.

    Rows of the head that are not readable text are scaled down, so that hardly any of them is ever sampled.
    """
    key = int.from_bytes(hashlib.sha256(_SEED + spec.name.encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key).random_raw(math.prod(spec.shape))
    pairs = (bits & _LANES) + ((bits >> np.uint64(16)) & _LANES)
    lane_sum = ((pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))).astype(np.float32)
    values = (lane_sum - np.float32(_LANE_SUM_MEAN)) * np.float32(spec.std / _LANE_SUM_STD) + np.float32(spec.mean)
    values = values.reshape(spec.shape)
    if spec.name == "model.lm_head.weight":
        values[unreadable_ids()] *= _UNREADABLE_SCALE
    return values


def linear(name: str, *shape: int, gain: float = 1.0) -> TensorSpec:
    """A weight [out, in, ...] whose output is `gain` times the size of its input."""
    return TensorSpec(f"{name}.weight", shape, std=gain / math.sqrt(math.prod(shape[1:])))


def biased(name: str, *shape: int) -> Iterator[TensorSpec]:
    """A weight and a bias close to zero."""
    yield linear(name, *shape)
    yield TensorSpec(f"{name}.bias", shape[:1], std=0.02)


def rms_norm(name: str, width: int) -> TensorSpec:
    """Scales around one."""
    return TensorSpec(f"{name}.weight", (width,), std=0.1, mean=1.0)
