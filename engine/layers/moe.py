"""Sparse mixture of experts with one gate per modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import Quant
from engine.kernels.expert_sum import ExpertRows
from engine.kernels.fused_moe import SharedExpert, experts_unsummed, fused_moe
from engine.kernels.gate import gate_logits, gate_parts
from engine.kernels.paths import current
from engine.kernels.router import RoutingRule, route
from engine.kernels.triton_support import use_kernel
from engine.layers.batch import Batch
from engine.layers.linear import GatedMLP
from engine.layers.quantised import Stored, quantise_parameter
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel
from engine.quantised import Format, block_of, weight_of


class Gate(nn.Module):
    """Router of one modality, whole on every rank; `expert_bias` moves selection only."""

    def __init__(self, cfg: LLMConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.num_experts, cfg.hidden_size))
        self.expert_bias = nn.Parameter(torch.empty(cfg.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> logits float32 [T, E]."""
        return gate_logits(x, self.weight)


class Experts(nn.Module):
    """The routed experts' packed weights, each expert split along its width over the ranks."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        width = len(tp.split(cfg.moe_intermediate_size, "moe_intermediate_size"))
        self.hidden_size, self.width = cfg.hidden_size, cfg.moe_intermediate_size
        self.w13: Stored = nn.Parameter(torch.empty(cfg.num_experts, 2 * width, cfg.hidden_size))
        self.w2: Stored = nn.Parameter(torch.empty(cfg.num_experts, cfg.hidden_size, width))

    def quantise(self, quant: Quant) -> None:
        """Keep all experts in 8 or 4 bits."""
        format: Format = "int4" if quant == "int4" else "fp8"
        across, along = block_of(self.hidden_size), block_of(self.width)
        self.w13 = quantise_parameter(self, "w13", format, (along, across), parts=2)
        self.w2 = quantise_parameter(self, "w2", format, (across, along))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor, shared: SharedExpert | None) -> Tensor | ExpertRows:
        """[T, D] with the router's choice -> [T, D], a partial sum over ranks, the shared expert's share included.

        By the path of a late sum it is the rows that are yet to be weighted and added.
        """
        peers = self.tp.peers_for(len(x))
        out = None if peers is None else peers.share(len(x))
        w13, w2 = weight_of(self.w13), weight_of(self.w2)
        if current().late_sum and use_kernel(x) and len(x):
            return experts_unsummed(x, w13, w2, ids, weights, shared, torch.empty_like(x) if out is None else out)
        return fused_moe(x, w13, w2, ids, weights, shared, out)


class MultiRouter(nn.Module):
    """Chooses experts per token with the gate of its modality; follows `BailingMoeV2MultiRouter`."""

    def __init__(self, cfg: LLMConfig) -> None:
        super().__init__()
        self.rule = RoutingRule(cfg.num_experts_per_tok, cfg.n_group, cfg.topk_group, cfg.routed_scaling_factor)
        self.gate = Gate(cfg)
        multi = cfg.router_type == "MultiRouter"
        self.image_gate = Gate(cfg) if multi else None
        self.audio_gate = Gate(cfg) if multi else None

    def forward(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """[T, D] -> expert ids int64 [T, k] and weights float32 [T, k]."""
        if batch.image_rows is None and batch.audio_rows is None:
            return route(gate_parts(x, self.gate.weight), self.gate.expert_bias, self.rule)
        logits = self.gate(x)
        bias = self.gate.expert_bias.float().expand_as(logits).clone()
        self._overwrite(logits, bias, x, self.image_gate, batch.image_rows)
        self._overwrite(logits, bias, x, self.audio_gate, batch.audio_rows)
        return route(logits, bias, self.rule)

    @staticmethod
    def _overwrite(logits: Tensor, bias: Tensor, x: Tensor, gate: Gate | None, rows: Tensor | None) -> None:
        """Give `rows` the verdict of `gate`, in place."""
        if gate is not None and rows is not None:
            logits[rows] = gate(x[rows])
            bias[rows] = gate.expert_bias.float()


class SparseMoE(nn.Module):
    """Routed experts plus the shared expert; follows `BailingMoeV2SparseMoeBlock`."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.router = MultiRouter(cfg)
        self.experts = Experts(cfg, tp)
        width = cfg.moe_intermediate_size * cfg.num_shared_experts
        self.shared_experts = GatedMLP(cfg.hidden_size, width, tp, "shared expert width") if width else None

    def forward(self, x: Tensor, batch: Batch) -> Tensor | ExpertRows:
        """[T, D] -> [T, D], a partial sum over ranks of both terms, or what is yet to be summed to that."""
        ids, weights = self.router(x, batch)
        mlp = self.shared_experts
        shared = None if mlp is None else SharedExpert(weight_of(mlp.gate_up_weight), weight_of(mlp.down_weight))
        out: Tensor | ExpertRows = self.experts(x, ids, weights, shared)
        return out


class DenseMLP(nn.Module):
    """The feed-forward block of the leading dense layers."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.mlp = GatedMLP(cfg.hidden_size, cfg.intermediate_size, tp, "intermediate_size")

    def forward(self, x: Tensor, _batch: Batch) -> Tensor:
        """[T, D] -> [T, D], a partial sum over ranks; the signature is that of `SparseMoE`."""
        out: Tensor = self.mlp(x)
        return out
