"""The thinker once more in plain PyTorch: whole sequences, no cache, no packing, one expert after the other.

It is what served results are measured with where no golden fits: in bfloat16 every order of operations gives other last
bits, and the question is only whether ours is as good as the obvious one. It shares weights with the engine's model and
nothing else; understanding.md's sections 2.1 to 2.8 are its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.moe import SparseMoE
from engine.models.bailing_moe import BailingMoe


@dataclass(frozen=True, slots=True)
class WholeSequence:
    """One prompt with what follows it: embeddings [T, D], positions int64 [3, T], and the rows of the two media gates.

    `experts` are ids [T, k] by layer that are taken in place of the gates' choice; where a layer is not named, or
    names fewer tokens, the gates choose.
    """

    embeddings: Tensor
    positions: Tensor
    image_rows: Tensor | None
    audio_rows: Tensor | None
    experts: Mapping[int, Tensor]


@torch.inference_mode()
def plain_logits(model: BailingMoe, sequence: WholeSequence) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits float32 [T, V] in the arithmetic of the embeddings' dtype, and the experts of every MoE layer."""
    x, experts = sequence.embeddings, {}
    cos, sin = _rotation(model, sequence.positions, x.dtype)
    for i, layer in enumerate(model.layers):
        module: Any = layer
        normed = _norm(x, module.input_layernorm.weight, module.input_layernorm.eps)
        x = x + _attention(module.attention, normed, cos, sin)
        normed = _norm(x, module.post_attention_layernorm.weight, module.post_attention_layernorm.eps)
        if isinstance(module.mlp, SparseMoE):
            out, experts[i] = _moe(module.mlp, normed, sequence, sequence.experts.get(i))
            x = x + out
        else:
            x = x + _mlp(normed, module.mlp.mlp.gate_up_weight, module.mlp.mlp.down_weight)
    normed = _norm(x, model.norm.weight, model.norm.eps)
    weight: Any = model.lm_head.weight
    return F.linear(normed, weight).float(), experts


def forced_choice(router: Any, x: Tensor, ids: Tensor, image: Tensor | None, audio: Tensor | None) -> Tensor:
    """The weights float32 [T, k] that a token's gate gives to the experts `ids` [T, k]."""
    scores = _scores(router, x, image, audio)[0].gather(1, ids)
    weights: Tensor = router.rule.scaling * scores / (scores.sum(dim=1, keepdim=True) + 1e-20)
    return weights


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    normed = wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def _rotation(model: BailingMoe, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [T, 1, F]; the two spatial axes alternate on the high frequencies."""
    rope = model.rotary_emb
    spatial = rope.cfg.mrope_section[1] + rope.cfg.mrope_section[2]
    axes = [0 if i >= spatial else 1 + i % 2 for i in range(len(rope.inv_freq))]
    phase = positions[axes].t().float() * rope.inv_freq
    return phase.cos()[:, None].to(dtype), phase.sin()[:, None].to(dtype)


def _attention(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    qkv = attention.query_key_value
    heads = F.linear(x, qkv.weight).view(len(x), -1, qkv.head_dim)
    first_value = qkv.num_heads + qkv.num_kv_heads
    q, k, v = heads[:, : qkv.num_heads], heads[:, qkv.num_heads : first_value], heads[:, first_value:]
    q = _rotate(_norm(q, attention.q_norm.weight, attention.q_norm.eps), cos, sin)
    k = _rotate(_norm(k, attention.k_norm.weight, attention.k_norm.eps), cos, sin)
    group = qkv.num_heads // qkv.num_kv_heads
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("qhc,khc->hqk", q, k) * qkv.head_dim**-0.5
    hidden = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    shares = scores.float().masked_fill(hidden, float("-inf")).softmax(dim=-1).to(x.dtype)
    return F.linear(torch.einsum("hqk,khc->qhc", shares, v).flatten(1), attention.dense.weight)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _mlp(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def _scores(router: Any, x: Tensor, image: Tensor | None, audio: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sigmoid scores float32 [T, E] of each token's own gate, and that gate's selection bias."""
    scores, bias = torch.empty(0), torch.empty(0)
    for gate, rows in ((router.gate, slice(None)), (router.image_gate, image), (router.audio_gate, audio)):
        if gate is None or rows is None:
            continue
        found = F.linear(x[rows].float(), gate.weight.float()).sigmoid()
        if gate is router.gate:
            scores, bias = found, gate.expert_bias.float().expand_as(found).clone()
        else:
            scores[rows], bias[rows] = found, gate.expert_bias.float()
    return scores, bias


def _chosen(router: Any, scores: Tensor, bias: Tensor) -> Tensor:
    """The best experts of the best groups, ids [T, k]."""
    rule = router.rule
    grouped = (scores + bias).view(len(scores), rule.n_group, -1)
    best = grouped.sort(dim=2, descending=True).values[..., :2].sum(dim=2)
    worst = best.argsort(dim=1, descending=True)[:, rule.topk_group :]
    grouped = grouped.scatter(1, worst[..., None].expand(-1, -1, grouped.shape[2]), float("-inf"))
    best_first: Tensor = grouped.flatten(1).argsort(dim=1, descending=True)
    return best_first[:, : rule.top_k]


def _moe(mlp: SparseMoE, x: Tensor, sequence: WholeSequence, forced: Tensor | None) -> tuple[Tensor, Tensor]:
    """The block's output [T, D] and the experts it took [T, k], sorted by id."""
    rows = (sequence.image_rows, sequence.audio_rows)
    ids = _chosen(mlp.router, *_scores(mlp.router, x, *rows)).sort(dim=1).values
    if forced is not None:
        ids = torch.cat((forced.to(ids.device), ids[len(forced) :]))
    weights = forced_choice(mlp.router, x, ids, *rows)
    experts: Any = mlp.experts
    routed = torch.zeros(x.shape, device=x.device)
    for k in range(ids.shape[1]):
        terms = [_mlp(row[None], experts.w13[e], experts.w2[e]) for row, e in zip(x, ids[:, k].tolist(), strict=True)]
        routed += torch.cat(terms).float() * weights[:, k : k + 1]
    out = routed.to(x.dtype)
    if mlp.shared_experts is not None:
        shared: Any = mlp.shared_experts
        out = out + _mlp(x, shared.gate_up_weight, shared.down_weight)
    return out, ids
