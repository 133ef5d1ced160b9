"""Resampling by a windowed sinc, with the filter that the released front end takes from torchaudio.

Hann window, six zero crossings to each side, roll-off 0.99. An output sample depends on few inputs, and the pattern
repeats: with the rates o and n in lowest terms, n outputs advance the input by o. Outputs of one such period are
computed in groups, each a small dense matrix product, so that any pair of rates costs the same per output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
_GROUP = 32  # outputs of one matrix product; enough for BLAS, few enough that most taps are used


@dataclass(frozen=True, slots=True)
class _Group:
    """Outputs [first, first + columns) of each period: input offset of the first tap, and taps [inputs, columns]."""

    first: int
    offset: int
    taps: F32


@dataclass(frozen=True, slots=True)
class _Filter:
    """A period of `num_inputs` input and `num_outputs` output samples; taps reach `width` inputs to either side."""

    num_inputs: int
    num_outputs: int
    width: int
    groups: tuple[_Group, ...]


def resample(waveform: F32, rate_hz: int, target_hz: int) -> F32:
    """Samples [n] at `rate_hz` to [ceil(n * target_hz / rate_hz)] at `target_hz`."""
    if rate_hz == target_hz:
        return waveform
    divisor = math.gcd(rate_hz, target_hz)
    rate, target = rate_hz // divisor, target_hz // divisor
    length = -(-len(waveform) * target // rate)
    bank = _filter(rate, target)
    num_periods = -(-length // bank.num_outputs)
    end = num_periods * bank.num_inputs + bank.width + 1
    padded = np.pad(waveform, (bank.width, max(0, end - len(waveform))))
    output = np.empty((num_periods, bank.num_outputs), np.float32)
    for group in bank.groups:
        windows = np.lib.stride_tricks.sliding_window_view(padded[group.offset :], len(group.taps))
        inputs = np.ascontiguousarray(windows[:: bank.num_inputs][:num_periods])
        output[:, group.first : group.first + group.taps.shape[1]] = inputs @ group.taps
    return output.reshape(-1)[:length]


@lru_cache(maxsize=4)
def _filter(rate: int, target: int) -> _Filter:
    """Taps for rates in lowest terms; short periods are joined until they fill a group."""
    periods = -(-_GROUP // target)
    cutoff = min(rate, target) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * rate / cutoff)
    num_outputs = target * periods
    groups = tuple(
        _group(first, min(first + _GROUP, num_outputs), rate, target, width) for first in range(0, num_outputs, _GROUP)
    )
    return _Filter(rate * periods, num_outputs, width, groups)


def _group(first: int, end: int, rate: int, target: int, width: int) -> _Group:
    """Taps of outputs [first, end), in float64 until the end; offsets count from `width` zeros before the signal."""
    cutoff = min(rate, target) * ROLLOFF
    offset = first * rate // target
    num_inputs = (end - 1) * rate // target + 2 * width + 2 - offset
    inputs = np.arange(offset - width, offset - width + num_inputs)[:, None] / rate
    distance = np.clip((inputs - np.arange(first, end) / target) * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(distance * (np.pi / ZERO_CROSSINGS / 2)) ** 2
    taps = np.sinc(distance) * window * (cutoff / rate)
    return _Group(first, offset, taps.astype(np.float32))
