"""Linear layers split over ranks. Weights are [out, in] without bias, holding only this rank's share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model_config import LLMConfig
from engine.parallel import TensorParallel


class RowParallelLinear(nn.Module):
    """Splits the input width: each rank multiplies its slice, the sum over ranks is the result.

    What it returns is this rank's share: the norm that follows adds the others'.
    """

    def __init__(self, in_features: int, out_features: int, tp: TensorParallel, what: str) -> None:
        super().__init__()
        self.tp = tp
        self.weight = nn.Parameter(torch.empty(out_features, len(tp.split(in_features, what))))

    def forward(self, x: Tensor) -> Tensor:
        """[T, in / size] -> [T, out], a partial sum."""
        return linear_into_share(x, self.weight, self.tp)


def linear_into_share(x: Tensor, weight: Tensor, tp: TensorParallel) -> Tensor:
    """`x weight^T` [T, out], a partial sum over ranks, written to where the others can read it if there is a place."""
    peers = tp.peers_for(len(x))
    if peers is None:
        return F.linear(x, weight)
    share = peers.share(len(x))
    torch.mm(x, weight.t(), out=share)
    return share


class QKVParallelLinear(nn.Module):
    """The packed query | key | value projection of this rank's heads, each group head-major."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.num_heads = len(tp.split(cfg.num_attention_heads, "num_attention_heads"))
        self.num_kv_heads = len(tp.split_kv_heads(cfg.num_key_value_heads))
        self.head_dim = cfg.head_dim
        rows = (self.num_heads + 2 * self.num_kv_heads) * cfg.head_dim
        self.weight = nn.Parameter(torch.empty(rows, cfg.hidden_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] -> q [T, H, C], k [T, K, C], v [T, K, C]."""
        heads = F.linear(x, self.weight).view(x.shape[0], -1, self.head_dim)
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=1)
        return q, k, v


class GatedMLP(nn.Module):
    """`down(silu(gate x) * up x)`, split along the intermediate width; gate and up are one packed product.

    The result is this rank's share of the sum, which the norm that follows adds up.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, tp: TensorParallel, what: str) -> None:
        super().__init__()
        self.tp = tp
        width = len(tp.split(intermediate_size, what))
        self.gate_up_weight = nn.Parameter(torch.empty(2 * width, hidden_size))
        self.down_weight = nn.Parameter(torch.empty(hidden_size, width))

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D], a partial sum."""
        gate, up = F.linear(x, self.gate_up_weight).chunk(2, dim=-1)
        return linear_into_share(F.silu(gate) * up, self.down_weight, self.tp)
