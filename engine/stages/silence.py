"""Holding back silence, so that a stream of speech ends soon after its last sound.

The signal is judged in frames of a tenth of a second. Silence is kept back until sound follows it; at the end only the
first 0.3 s of it are given out. The released streaming version loses and repeats samples here; this one gives what a
single call gives, but for less than a frame at the very end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

FRAME_S = 0.1
KEPT_TAIL_S = 0.3
THRESHOLD = 1e-3  # mean magnitude above which a frame is sound


@dataclass(slots=True)
class SilenceHold:
    """One segment's state. Leading silence is kept; what is left of the last frame at the end is dropped."""

    frame: int
    tail: int
    rest: F32  # less than a frame, not judged yet
    held: F32  # whole silent frames

    @classmethod
    def at(cls, sample_rate_hz: int) -> SilenceHold:
        """A new segment."""
        nothing = np.zeros(0, np.float32)
        return cls(int(FRAME_S * sample_rate_hz), int(KEPT_TAIL_S * sample_rate_hz), nothing, nothing)

    def push(self, samples: F32, *, last: bool = False) -> F32:
        """The next samples [n] -> those that can be given out; `last` ends the segment."""
        samples = np.concatenate((self.rest, samples))
        num_frames = len(samples) // self.frame
        frames, self.rest = np.split(samples, [num_frames * self.frame])
        loud = np.abs(frames.reshape(num_frames, self.frame)).mean(axis=1) > THRESHOLD
        end = 0 if not loud.any() else (int(loud.nonzero()[0][-1]) + 1) * self.frame
        if not end:
            return self._stay_silent(frames, last)
        if last:
            end = min(end + self.tail, len(frames))
        out = np.concatenate((self.held, frames[:end]))
        self.held = frames[end:]
        return out

    def _stay_silent(self, frames: F32, last: bool) -> F32:
        self.held = np.concatenate((self.held, frames))
        return np.concatenate((self.held, self.rest))[: self.tail] if last else self.held[:0]
