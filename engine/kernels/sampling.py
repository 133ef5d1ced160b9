"""Drawing tokens on the device: temperature, top-k, min-p, top-p and a seeded draw, without a host round trip.

A draw is the inverse of the filtered distribution with tokens in descending order of probability, at one uniform
number that depends on the request's seed and token count alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.argmax import argmax, argmax_reference
from engine.kernels.radix_search import RadixSearch, Search
from engine.kernels.triton_support import use_kernel


@dataclass(frozen=True, slots=True)
class DrawParams:
    """Sampling choices of every row, tensors [B] on the device. Temperature 0 takes the most likely token.

    `index` counts the tokens that the request has drawn before; `top_k` below 1, `top_p` 1 and `min_p` 0 keep all.
    """

    temperature: Tensor  # float32
    top_k: Tensor  # int32
    top_p: Tensor  # float32
    min_p: Tensor  # float32
    seed: Tensor  # int64
    index: Tensor  # int64

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return self.temperature, self.top_k, self.top_p, self.min_p, self.seed, self.index


DTYPES = (torch.float32, torch.int32, torch.float32, torch.float32, torch.int64, torch.int64)


def uniform_reference(seed: Tensor, index: Tensor) -> Tensor:
    """Numbers in [0, 1] from int64 [B]: two rounds of the splitmix64 finaliser (Steele et al., 2014), as float32."""
    return (_shift_right(draw_key_reference(seed, index), 11).double() * 2.0**-53).float()


def draw_key_reference(seed: Tensor, index: Tensor) -> Tensor:
    """64 bits, int64 [B], that depend on a request's seed and on how many tokens it has drawn."""
    return _mix_reference(_mix_reference(seed) ^ (index * _signed(0x9E3779B97F4A7C15)))


def _mix_reference(x: Tensor) -> Tensor:
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _signed(x: int) -> int:
    """An unsigned 64-bit constant as the int64 of the same bits."""
    return x - (1 << 64) if x >= 1 << 63 else x


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def draw_reference(logits: Tensor, params: DrawParams) -> Tensor:
    """One token per row of float32 logits [B, V] -> int64 [B]."""
    greedy = params.temperature <= 0
    temperature = torch.where(greedy, 1.0, params.temperature)
    ranked, order = (logits / temperature.unsqueeze(1)).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    top_k = torch.where(params.top_k > 0, params.top_k, logits.shape[1])
    probs = ranked.masked_fill(rank >= top_k.unsqueeze(1), float("-inf")).softmax(dim=-1)
    probs = probs.masked_fill(probs < params.min_p.unsqueeze(1) * probs[:, :1], 0.0)
    probs = probs / probs.sum(dim=-1, keepdim=True)
    # A token stays while the mass before it is below top_p, so the most likely one always stays.
    probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= params.top_p.unsqueeze(1), 0.0)
    mass = probs.cumsum(dim=-1)
    target = uniform_reference(params.seed, params.index).unsqueeze(1) * mass[:, -1:]
    last = (probs > 0).sum(dim=-1, keepdim=True) - 1
    chosen = torch.searchsorted(mass, target, right=True).minimum(last)
    drawn = order.gather(1, chosen).squeeze(1)
    return torch.where(greedy, argmax_reference(logits)[1], drawn)


def draw(logits: Tensor, params: DrawParams, *, top_k: bool = True, top_p: bool = True) -> Tensor:
    """Checked form of `draw_reference`. `top_k` and `top_p` say whether any row uses that filter: each costs a search.

    The launches depend on shapes and on those two alone, so they can be captured.

    Raises:
        ValueError: `logits` are not float32 with contiguous rows, or `params` are not [B] of their dtypes.
    """
    if logits.ndim != 2 or logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(f"draw: want float32 rows [B, V], got {logits.dtype} {tuple(logits.shape)}")
    if any(x.shape != logits.shape[:1] or x.dtype != d for x, d in zip(params.tensors, DTYPES, strict=True)):
        raise ValueError(f"draw: parameters must be [{len(logits)}] and {DTYPES}")
    if not use_kernel(logits):
        return draw_reference(logits, params)
    best, best_ids = argmax(logits)
    filters = (params.top_k, params.top_p, params.seed, params.index)
    search = RadixSearch(logits, best, params.temperature, params.min_p, filters)
    search.run([Search.TOP_K] * top_k + [Search.TOP_P] * top_p + [Search.DRAW])
    return search.pick(best_ids)
