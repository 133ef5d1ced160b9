"""The randomness of one segment: a private generator, so that nothing else in a batch can change its audio."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from engine.talker_config import TalkerConfig


def generator_seed(seed: int, segment: int) -> int:
    """One of 2**32 seeds for each segment of each request: torch's generator drops all higher bits."""
    digest = hashlib.blake2b(f"{seed}/{segment}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


class Noise(Protocol):
    """Standard normal numbers for one step after another, float32 on the CPU."""

    def draw(self) -> tuple[Tensor, Tensor]:
        """Initial noise [P, M], then that of the stochastic solver [steps, P, M]."""


class SeededNoise:
    """Numbers of segment `segment` of a request with `seed`; the same on every device."""

    def __init__(self, cfg: TalkerConfig, seed: int, segment: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(generator_seed(seed, segment))
        self._steps = cfg.steps
        self._shape = (cfg.patch_size, cfg.flowmodel.in_channels)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Both are always drawn, in this order: what is used of them does not move the sequence."""
        y0 = torch.randn(self._shape, generator=self._generator)
        return y0, torch.randn(self._steps, *self._shape, generator=self._generator)
