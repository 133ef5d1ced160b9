"""From 8-bit levels to the values that the vision tower was trained on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine.inputs.processor_config import ImageProcessorConfig

F32 = npt.NDArray[np.float32]


@lru_cache(maxsize=4)
def pixel_table(config: ImageProcessorConfig) -> F32:
    """Normalised value of every channel and level, float32 [3, 256].

    In the released order of operations: scaled by 1/255 in float64, rounded to float32, mean and deviation in float32.
    """
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.array(config.image_mean, dtype=np.float32)[:, None]
    std = np.array(config.image_std, dtype=np.float32)[:, None]
    table: F32 = (scaled - mean) / std
    table.flags.writeable = False
    return table
