"""A checkpoint that exists nowhere: every tensor is drawn on the device when it is asked for.

For measuring speed and memory at a geometry whose weights are not at hand. The scales are those of a healthy model,
so that tokens spread over the experts: weights drawn too small route every token alike, and a mixture of experts that
reads the same few experts at every step looks three to four times too fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.weights.checkpoint import LazyTensor


@dataclass(frozen=True)
class GeneratedCheckpoint:
    """The surface of `Checkpoint` over tensors [`shapes`] drawn from `seed`, the same at any number of ranks.

    Norms are 1, biases 0, everything else is normal with standard deviation fan_in ** -0.5.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    seed: int = 0

    @property
    def files(self) -> dict[str, str]:
        """Tensor name -> where it comes from."""
        return dict.fromkeys(self.shapes, f"seed {self.seed}")

    def tensors(self) -> Iterator[LazyTensor]:
        """Every tensor; drawn when it is indexed."""
        for name, shape in self.shapes.items():
            yield LazyTensor(name, shape, self.dtype, _Drawn(self, name, shape))

    def stored_dtype(self, _name: str) -> torch.dtype:
        """What the tensors are drawn in."""
        return self.dtype

    def digest(self) -> str:
        """Identity of the weights: configuration, names, shapes and seed."""
        hasher = hashlib.sha256((self.path / "config.json").read_bytes())
        hasher.update(repr((sorted(self.shapes.items()), self.seed, str(self.dtype))).encode())
        return hasher.hexdigest()[:16]


@dataclass(frozen=True)
class _Drawn:
    checkpoint: GeneratedCheckpoint
    name: str
    shape: tuple[int, ...]

    def __getitem__(self, index: Any) -> Tensor:
        """A slice of the whole tensor: ranks that keep other slices draw the same whole."""
        c = self.checkpoint
        return draw(self.name, self.shape, c.seed, c.device, c.dtype)[index]


def draw(name: str, shape: tuple[int, ...], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One whole tensor; values depend on `seed`, `name`, the kind of device and nothing else."""
    if len(shape) <= 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype, device=device)
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "little")
    generator = torch.Generator(device).manual_seed(number)
    out = torch.empty(shape, dtype=dtype, device=device)
    return out.normal_(0.0, prod(shape[1:]) ** -0.5, generator=generator)
