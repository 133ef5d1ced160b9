"""The largest logit of every row, and where it is."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel

CHUNK = 4096


def argmax_reference(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[B, V] -> float32 [B] and int64 [B]; the first of equal values."""
    values, ids = logits.float().max(dim=-1)
    return values, ids


@jit
def largest(value, index):
    """The largest of a block, and the smallest index that has it."""
    best = tl.max(value, 0)
    return best, tl.min(tl.where(value == best, index, 2147483647), 0)


@jit
def store_best(value, index, values_ptr, ids_ptr, row, width):
    """Keep the best of this program's chunk of a row of `width`, the program's second number."""
    best, at = largest(value, index)
    at_out = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(values_ptr + at_out, best)
    tl.store(ids_ptr + at_out, tl.minimum(at, width - 1))  # NaN equals nothing: still a valid token


@jit
def best_of_chunks(values_ptr, ids_ptr, row, num_chunks, CHUNKS: tl.constexpr):
    """The largest value of a row and its token, from what `store_best` kept."""
    chunk = tl.arange(0, CHUNKS)
    mask = chunk < num_chunks
    value = tl.load(values_ptr + row * num_chunks + chunk, mask=mask, other=float("-inf"))
    index = tl.load(ids_ptr + row * num_chunks + chunk, mask=mask, other=2147483647)
    best, at = largest(value, index)
    return best, tl.minimum(at, tl.load(ids_ptr + row * num_chunks + num_chunks - 1)).to(tl.int64)


@jit
def _chunk_kernel(logits_ptr, values_ptr, ids_ptr, width, row_stride, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    value = tl.load(logits_ptr + row * row_stride + index, mask=index < width, other=float("-inf")).to(tl.float32)
    store_best(value, index, values_ptr, ids_ptr, row, width)


@jit
def _join_kernel(values_ptr, ids_ptr, out_values_ptr, out_ids_ptr, num_chunks, CHUNKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best, at = best_of_chunks(values_ptr, ids_ptr, row, num_chunks, CHUNKS)
    tl.store(out_values_ptr + row, best)
    tl.store(out_ids_ptr + row, at)


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Checked form of `argmax_reference`, for rows of any distance: a rank's share of the vocabulary will do.

    Raises:
        ValueError: `logits` are not a matrix with contiguous, non-empty rows.
    """
    if logits.ndim != 2 or not logits.shape[1] or logits.stride(1) != 1:
        raise ValueError(f"argmax: want rows [B, V], got {tuple(logits.shape)} with strides {logits.stride()}")
    if not use_kernel(logits):
        return argmax_reference(logits)
    num_rows, width = logits.shape
    num_chunks = cdiv(width, CHUNK)
    values = torch.empty(num_rows, num_chunks, dtype=torch.float32, device=logits.device)
    ids = torch.empty(num_rows, num_chunks, dtype=torch.int32, device=logits.device)
    if num_rows:
        _chunk_kernel[(num_rows, num_chunks)](logits, values, ids, width, logits.stride(0), CHUNK=CHUNK)
    return join_chunks(values, ids)


def join_chunks(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the chunks' best: values float32 and ids int32 [B, n] -> float32 [B], int64 [B]."""
    num_rows, num_chunks = values.shape
    best = torch.empty(num_rows, dtype=torch.float32, device=values.device)
    best_ids = torch.empty(num_rows, dtype=torch.int64, device=values.device)
    if num_rows:
        _join_kernel[(num_rows,)](values, ids, best, best_ids, num_chunks, CHUNKS=next_power_of_2(num_chunks))
    return best, best_ids
