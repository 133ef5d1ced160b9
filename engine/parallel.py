"""Tensor parallelism: who this rank is, what it keeps, and the two collectives the model needs.

Size 1 is a no-op that never touches `torch.distributed`. Which rank keeps what is plain arithmetic in `split`, so that
the weight rules, the layers and the memory estimate agree without talking to each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.peers import PeerMemory


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """This process's place among `size` ranks that hold one model together."""

    rank: int = 0
    size: int = 1
    peers: PeerMemory | None = field(default=None, compare=False, repr=False)  # GPUs of one host that see each other

    def peers_for(self, num_tokens: int) -> PeerMemory | None:
        """The memory through which a step of so many tokens sums over ranks; None: through the library."""
        peers = self.peers
        return peers if peers is not None and num_tokens <= peers.max_tokens else None

    def split(self, total: int, what: str) -> range:
        """The contiguous share of `total` items that this rank keeps.

        Raises:
            ConfigError: `total` does not divide by the number of ranks.
        """
        if total % self.size:
            raise ConfigError(f"{what} {total} does not divide by tp {self.size}; choose a tp that divides it")
        share = total // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def split_kv_heads(self, num_kv_heads: int) -> range:
        """Key/value heads of this rank: a share of them, or one copied head once there are more ranks than heads."""
        if self.size <= num_kv_heads:
            return self.split(num_kv_heads, "num_key_value_heads")
        if self.size % num_kv_heads:
            raise ConfigError(
                f"tp {self.size} is not a multiple of num_key_value_heads {num_kv_heads}; choose another tp"
            )
        head = self.rank // (self.size // num_kv_heads)
        return range(head, head + 1)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum over ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Concatenate the ranks' last dimensions in rank order: [..., n] -> [..., size * n]."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)

    def minimum(self, value: int) -> int:
        """The smallest of the ranks' values, the same on all of them."""
        if self.size == 1:
            return value
        values: list[Tensor] = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(values, torch.tensor([value]))
        return min(int(v) for v in values)
