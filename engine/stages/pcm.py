"""Samples as 16-bit integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLE_WIDTH_BYTES = 2


def to_pcm16(samples: npt.NDArray[np.float32]) -> bytes:
    """Little-endian; samples beyond -1..1 are clipped, since the decoder does not limit them."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
