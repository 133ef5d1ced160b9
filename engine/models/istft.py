"""The VAE's output head: hidden states to spectra, and those to samples by overlap-add.

After Vocos (Siuzdak, 2023). A frame is four hops long, and both ends of the signal lose half of what frames overlap,
so that F frames make exactly F hops. All of it runs in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.storage import add_table

OVERLAP = 4  # hops in a frame
MAX_MAGNITUDE = 100.0


class SpectrumHead(nn.Module):
    """Hidden states to windowed frames of samples."""

    def __init__(self, hidden_size: int, hop_size: int) -> None:
        super().__init__()
        self.frame_size = OVERLAP * hop_size
        self.out = nn.Linear(hidden_size, self.frame_size + 2)
        # A file may hold the window rounded to its dtype; signal and envelope need the exact one.
        self.window: Tensor
        add_table(self, "window", lambda: torch.hann_window(self.frame_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> frames float32 [B, F, frame_size]."""
        magnitude, phase = self.out(x).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp(max=MAX_MAGNITUDE), phase)
        # A real signal has no imaginary part at these two; libraries differ in what they make of one.
        spectrum.imag[..., 0] = 0
        spectrum.imag[..., -1] = 0
        return torch.fft.irfft(spectrum, n=self.frame_size) * self.window


def overlap_add(frames: Tensor) -> Tensor:
    """[R, F, frame_size] -> [R, (F + 3) * hop]: each frame added one hop after the one before it."""
    num_rows, num_frames, size = frames.shape
    hop = size // OVERLAP
    total = frames.new_zeros(num_rows, num_frames + OVERLAP - 1, hop)
    for j, part in enumerate(frames.unflatten(2, (OVERLAP, hop)).unbind(2)):
        total[:, j : j + num_frames] += part
    return total.flatten(1)


@dataclass(frozen=True, slots=True)
class OverlapState:
    """Sums that later frames still add to: float32 [2, 3 * hop], signal and squared window."""

    tail: Tensor


def join_frames(frames: Tensor, window: Tensor, state: OverlapState | None, last: bool) -> tuple[Tensor, OverlapState]:
    """Frames [F, frame_size] of one signal, after those in `state` -> the samples that are now final, and the rest.

    The first call (no state) drops half an overlap at the front, the last one at the end; a call that is not the
    last holds back what the next frames overlap.

    Raises:
        ValueError: a first call brings too few frames to get past the edge.
    """
    overlap = frames.shape[1] - frames.shape[1] // OVERLAP
    edge = overlap // 2
    if state is None and len(frames) < 2:
        raise ValueError("the first frames of a stream must be at least two")
    sums = overlap_add(torch.stack((frames, window.square().expand_as(frames))))
    if state is not None:
        sums[:, :overlap] += state.tail
    start = edge if state is None else 0
    end = sums.shape[1] - (edge if last else overlap)
    signal, envelope = sums[:, start:end]
    return signal / envelope, OverlapState(sums[:, -overlap:].clone())
