"""Speech faster or slower at its own pitch: overlap-add of similar pieces (WSOLA; Verhelst and Roelands, 1993)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

_FRAME_S = 0.03
_SEARCH_S = 0.008  # more than a pitch period of a voice


def stretch(samples: F32, rate_hz: int, speed: float) -> F32:
    """Samples [n] that last `1 / speed` times as long, about.

    Each output frame is taken near its place in the input, where it goes on most like the frame before it.
    """
    hop, search = int(_FRAME_S * rate_hz) // 2, int(_SEARCH_S * rate_hz)
    if speed == 1.0 or len(samples) < 4 * hop:
        return samples
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)  # two of them half a frame apart add up to one
    num_frames = int(len(samples) / speed) // hop
    padded = np.pad(samples, (search, search + 4 * hop))
    output = np.zeros((num_frames + 1) * hop, np.float32)
    place = search
    for k in range(num_frames):
        output[k * hop : (k + 2) * hop] += padded[place : place + 2 * hop] * window
        expected = padded[place + hop : place + 3 * hop]
        target = int((k + 1) * hop * speed)
        near = padded[target : target + 2 * search + 2 * hop]
        place = target + int(np.correlate(near, expected, mode="valid").argmax())
    output[:hop] += samples[:hop] * window[hop:]
    return output[: num_frames * hop]


def stretch_pcm(pcm: bytes, rate_hz: int, speed: float) -> bytes:
    """The same for 16-bit samples."""
    if speed == 1.0:
        return pcm
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    return np.clip(stretch(samples, rate_hz, speed).round(), -32768, 32767).astype("<i2").tobytes()
