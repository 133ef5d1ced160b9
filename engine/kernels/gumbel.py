"""A draw from all tokens in one pass over the logits: the largest of logit / temperature + Gumbel noise.

The noise of a token is a hash of the request's seed, its token count and the token's id, so a draw is the same whatever
the batch, the grid or the device (Gumbel-max; Maddison et al., 2014).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.argmax import CHUNK, argmax_reference, best_of_chunks, store_best
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.radix_search import mix
from engine.kernels.sampling import draw_key_reference
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel

_LOW = (1 << 32) - 1


def gumbel_draw_reference(logits: Tensor, temperature: Tensor, key: Tensor) -> Tensor:
    """One token per row of float32 logits [B, V], temperatures float32 [B], keys int64 [B] -> int64 [B].

    A temperature of 0 takes the largest logit. `key` is `draw_key_reference` of seed and count.
    """
    token = torch.arange(logits.shape[1], device=logits.device)
    low, high = key & _LOW, (key >> 32) & _LOW
    bits = _scramble_reference(_scramble_reference((token * 0x9E3779B9 + low[:, None]) & _LOW) ^ high[:, None])
    v = ((bits.double() + 0.5) * 2.0**-32).float()
    # -log(1 - v), exponentially distributed; for small v, where the largest noise comes from, without cancellation.
    waiting = torch.where(v < 2.0**-10, v * (1 + 0.5 * v), -torch.log(1 - v))
    greedy = temperature <= 0
    scores = logits / torch.where(greedy, 1.0, temperature)[:, None]
    return argmax_reference(torch.where(greedy[:, None], logits, scores - torch.log(waiting)))[1]


def _scramble_reference(x: Tensor) -> Tensor:
    """A 32-bit finaliser of low bias (Wellons, 2018), on int64."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _LOW
    return x ^ (x >> 16)


@jit
def _scramble(x):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@jit
def _chunk_kernel(
    logits_ptr,
    temperature_ptr,
    seed_ptr,
    index_ptr,
    values_ptr,
    ids_ptr,
    width,
    row_stride,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """The best score of one chunk of a row, and its token."""
    wait_then_release(PDL)
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    value = tl.load(logits_ptr + row * row_stride + token, mask=token < width, other=float("-inf"))
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0:
        key = tl.load(index_ptr + row).to(tl.uint64) * 0x9E3779B97F4A7C15
        key = mix(mix(tl.load(seed_ptr + row).to(tl.uint64)) ^ key)
        low, high = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
        bits = _scramble(_scramble(token.to(tl.uint32) * 0x9E3779B9 + low) ^ high)
        v = ((bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10).to(tl.float32)
        waiting = tl.where(v < 0.0009765625, v * (1 + 0.5 * v), -tl.log(1 - v))
        value = value / temperature - tl.log(waiting)
    store_best(value, token, values_ptr, ids_ptr, row, width)


@jit
def _join_kernel(
    values_ptr,
    ids_ptr,
    tokens_ptr,
    last_ptr,
    places_ptr,
    places_stride,
    num_chunks,
    KEEP: tl.constexpr,
    CHUNKS: tl.constexpr,
    PDL: tl.constexpr,
):
    """The token of one row from its chunks' best, also to the row's place."""
    wait_then_release(PDL)
    row = tl.program_id(0).to(tl.int64)
    _, at = best_of_chunks(values_ptr, ids_ptr, row, num_chunks, CHUNKS)
    tl.store(tokens_ptr + row, at)
    if KEEP:
        tl.store(last_ptr + tl.load(places_ptr + row * places_stride), at)


@dataclass(frozen=True, slots=True)
class Kept:
    """Where drawn tokens are remembered: row i in `last_tokens` int64 [S] at `places` int64 [B], of any stride.

    Rows that share a place must be ones whose token nobody wants.
    """

    last_tokens: Tensor
    places: Tensor


def gumbel_draw(
    logits: Tensor,
    temperature: Tensor,
    seed: Tensor,
    index: Tensor,
    out: Tensor | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Checked form of `gumbel_draw_reference`; `seed` and `index` int64 [B] make the key. Two launches.

    Tokens go into `out` int64 [B] and to their places where those are given.

    Raises:
        ValueError: `logits` are not float32 with contiguous rows, or the parameters are not [B].
    """
    if logits.ndim != 2 or logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(f"gumbel_draw: want float32 rows [B, V], got {logits.dtype} {tuple(logits.shape)}")
    if not temperature.shape == seed.shape == index.shape == logits.shape[:1]:
        raise ValueError(f"gumbel_draw: parameters must be [{len(logits)}], got {tuple(temperature.shape)}")
    num_rows, width = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device) if out is None else out
    if not use_kernel(logits):
        out.copy_(gumbel_draw_reference(logits, temperature, draw_key_reference(seed, index)))
        if kept is not None:
            kept.last_tokens[kept.places] = out
        return out
    num_chunks = cdiv(width, CHUNK)
    values = torch.empty(num_rows, num_chunks, dtype=torch.float32, device=logits.device)
    ids = torch.empty(num_rows, num_chunks, dtype=torch.int32, device=logits.device)
    if num_rows:
        options = launch_options(logits.device)
        where = (values, ids, width, logits.stride(0))
        _chunk_kernel[(num_rows, num_chunks)](logits, temperature, seed, index, *where, CHUNK=CHUNK, **options)
        last, places = (out, index) if kept is None else (kept.last_tokens, kept.places)
        _join_kernel[(num_rows,)](
            *(values, ids, out, last, places, places.stride(0), num_chunks),
            KEEP=kept is not None,
            CHUNKS=next_power_of_2(num_chunks),
            **options,
        )
    return out
