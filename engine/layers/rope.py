"""The `video_rope` layout: which of the three position axes drives which rotary frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.kernels.rope_table import rope_table
from engine.model_config import LLMConfig

T_AXIS, H_AXIS, W_AXIS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and sin of every packed token, [T, F] in the model dtype; made once a step, used by every layer."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(rotary_dim: int, theta: float) -> Tensor:
    """`theta ** (-2i / R)` for i < R / 2, float32 [F]."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    return 1.0 / torch.pow(torch.tensor(theta, dtype=torch.float32), exponent)


def frequency_axes(section: tuple[int, int, int]) -> Tensor:
    """The axis of each frequency, int64 [F]: H and W alternate on the high ones, T owns the lowest."""
    num_spatial = section[1] + section[2]
    axes = [T_AXIS if i >= num_spatial else (H_AXIS, W_AXIS)[i % 2] for i in range(sum(section))]
    return torch.tensor(axes)


class VideoRope(nn.Module):
    """Positions (T, H, W) -> `Rotation`; follows `BailingMoeV2RotaryEmbedding3D`.

    Frequencies stay in float32 whatever the model dtype: the released example rounds them to bfloat16
    by accident, which is off by radians at position 1000. Phases are computed, never looked up, because positions
    can be negative.
    """

    def __init__(self, cfg: LLMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.inv_freq: Tensor
        self.axes: Tensor
        self.register_buffer("inv_freq", torch.empty(0), persistent=False)
        self.register_buffer("axes", torch.empty(0), persistent=False)

    def reset(self, device: torch.device) -> None:
        """Fill the tables on `device` (parameters are created without storage and loaded later)."""
        self.inv_freq = inverse_frequencies(self.cfg.rotary_dim, self.cfg.rope_theta).to(device)
        self.axes = frequency_axes(self.cfg.mrope_section).to(device)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """int64 [3, T] -> cos, sin [T, F] in `dtype`."""
        return Rotation(*rope_table(positions, self.axes, self.inv_freq, dtype))
