"""Linear layers split over ranks. Weights are [out, in] without bias, holding only this rank's share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import Quant
from engine.kernels.linear import linear
from engine.layers.quantised import Stored, quantise_parameter
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel
from engine.quantised import MOST_RANKS, Weight, block_of, weight_of


class RowParallelLinear(nn.Module):
    """Splits the input width: each rank multiplies its slice, the sum over ranks is the result.

    What it returns is this rank's share: the norm that follows adds the others'.
    """

    def __init__(self, in_features: int, out_features: int, tp: TensorParallel, what: str) -> None:
        super().__init__()
        self.tp = tp
        self.in_features, self.out_features = in_features, out_features
        self.weight: Stored = nn.Parameter(torch.empty(out_features, len(tp.split(in_features, what))))

    def quantise(self, _quant: Quant) -> None:
        """Keep the weight in 8 bits."""
        block = (block_of(self.out_features), block_of(self.in_features))
        self.weight = quantise_parameter(self, "weight", "fp8", block)

    def forward(self, x: Tensor) -> Tensor:
        """[T, in / size] -> [T, out], a partial sum."""
        return linear_into_share(x, weight_of(self.weight), self.tp)


def linear_into_share(x: Tensor, weight: Weight, tp: TensorParallel) -> Tensor:
    """`x weight^T` [T, out], a partial sum over ranks, written to where the others can read it if there is a place."""
    peers = tp.peers_for(len(x))
    return linear(x, weight, None if peers is None else peers.share(len(x)))


class QKVParallelLinear(nn.Module):
    """The packed query | key | value projection of this rank's heads, each group head-major."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.num_heads = len(tp.split(cfg.num_attention_heads, "num_attention_heads"))
        self.num_kv_heads = len(tp.split_kv_heads(cfg.num_key_value_heads))
        self.head_dim = cfg.head_dim
        rows = (self.num_heads + 2 * self.num_kv_heads) * cfg.head_dim
        self.weight: Stored = nn.Parameter(torch.empty(rows, cfg.hidden_size))

    def quantise(self, _quant: Quant) -> None:
        """Keep the weight in 8 bits. Ranks cut between heads."""
        block = (block_of(MOST_RANKS * self.head_dim), block_of(self.weight.shape[1]))
        self.weight = quantise_parameter(self, "weight", "fp8", block)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] -> q [T, H, C], k [T, K, C], v [T, K, C]."""
        heads = linear(x, weight_of(self.weight)).view(x.shape[0], -1, self.head_dim)
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
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.gate_up_weight: Stored = nn.Parameter(torch.empty(2 * width, hidden_size))
        self.down_weight: Stored = nn.Parameter(torch.empty(hidden_size, width))

    def quantise(self, _quant: Quant) -> None:
        """Keep both weights in 8 bits."""
        across, along = block_of(self.hidden_size), block_of(self.intermediate_size)
        self.gate_up_weight = quantise_parameter(self, "gate_up_weight", "fp8", (along, across), parts=2)
        self.down_weight = quantise_parameter(self, "down_weight", "fp8", (across, along))

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D], a partial sum."""
        gate, up = linear(x, weight_of(self.gate_up_weight)).chunk(2, dim=-1)
        return linear_into_share(F.silu(gate) * up, weight_of(self.down_weight), self.tp)
