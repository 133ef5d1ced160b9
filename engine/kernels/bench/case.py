"""What a benchmark case is, the sizes it is made for, and how outputs are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.router import RoutingRule

Outputs = tuple[Tensor, ...]
Run = Callable[[int], Outputs]  # one operation on one of the input sets

RELEASED_RULE = RoutingRule(top_k=8, n_group=8, topk_group=4, scaling=2.5)


@dataclass(frozen=True, slots=True)
class Sizes:
    """One rank's share of the released model at tp 2, and the batches to run."""

    dim: int = 4096
    num_heads: int = 16
    num_kv_heads: int = 2
    head_dim: int = 128
    half: int = 32
    num_experts: int = 256
    expert_width: int = 512
    vocab: int = 157184
    block_size: int = 16
    rule: RoutingRule = RELEASED_RULE
    decodes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    prefills: tuple[int, ...] = (2048, 8192)
    contexts: tuple[int, ...] = (1000, 8000)
    num_sets: int = 4


def relative_error(got: Outputs, want: Outputs) -> float:
    """Relative L2 error of all outputs together; NaN where one holds NaN."""
    wrong = sum(float((g.double() - w.double()).square().sum()) for g, w in zip(got, want, strict=True))
    total = sum(float(w.double().square().sum()) for w in want)
    return float((wrong / total) ** 0.5)


def different_share(got: Outputs, want: Outputs) -> float:
    """Share of tokens, the last output, that differ."""
    return float((got[-1] != want[-1]).double().mean())


def as_they_are(outputs: Outputs) -> Outputs:
    """For outputs that can be compared without further ado."""
    return outputs


@dataclass(frozen=True, slots=True)
class Case:
    """One operation at one size: tunings to compare, and the least that must be moved and computed.

    `reference` is timed beside the variants in the model dtype; `exact` runs it on the same values in float32. A
    variant is wrong when the `error` of what `view` makes of its outputs is above `bound`.
    """

    kernel: str
    size: str
    num_bytes: int
    num_flops: int
    num_sets: int
    variants: Mapping[str, Run]
    reference: Run
    exact: Run
    bound: float = 1e-2
    view: Callable[[Outputs], Outputs] = as_they_are
    error: Callable[[Outputs, Outputs], float] = relative_error


@dataclass(frozen=True, slots=True)
class Source:
    """Where cases take random values from."""

    sizes: Sizes
    device: torch.device
    dtype: torch.dtype

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal values in the model dtype."""
        return torch.randn(shape, device=self.device, dtype=self.dtype).mul_(scale)

    @property
    def item_bytes(self) -> int:
        """Bytes of one value."""
        return self.dtype.itemsize
