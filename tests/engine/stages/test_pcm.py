from __future__ import annotations

import numpy as np

from engine.stages.pcm import to_pcm16


def test_samples_are_clipped_not_wrapped() -> None:
    data = to_pcm16(np.array([0.0, 1.0, -1.0, 1.7, -3.0, 0.5], np.float32))
    assert np.frombuffer(data, "<i2").tolist() == [0, 32767, -32767, 32767, -32767, 16384]
