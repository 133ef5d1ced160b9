"""Word embeddings of a share of the vocabulary, in one launch."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel

MOST_COLUMNS = 1024  # of a program


def embed_reference(ids: Tensor, table: Tensor, first: int, vocab_size: int) -> Tensor:
    """int64 ids [T], rows first.. of a vocabulary [n, D] -> [T, D]; zeros for ids whose rows are elsewhere.

    Ids outside the vocabulary are clipped, as in the released model.
    """
    local = ids.clamp(0, vocab_size - 1) - first
    mine = (local >= 0) & (local < len(table))
    return F.embedding(local.masked_fill(~mine, 0), table) * mine.unsqueeze(-1)


@jit
def _embed_kernel(
    ids_ptr,
    table_ptr,
    out_ptr,
    first,
    num_rows,
    vocab_size,
    dim: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """BLOCK columns of one token."""
    wait_then_release(PDL)
    token, col = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    id = tl.minimum(tl.maximum(tl.load(ids_ptr + token), 0), vocab_size - 1)
    local = id - first
    mine = (local >= 0) & (local < num_rows)
    value = tl.load(table_ptr + local * dim + col, mask=mine & (col < dim), other=0.0)
    tl.store(out_ptr + token * dim + col, value, mask=col < dim)


def embed(ids: Tensor, table: Tensor, first: int, vocab_size: int, out: Tensor | None = None) -> Tensor:
    """Checked form of `embed_reference`, into contiguous `out` [T, D] if given.

    Raises:
        ValueError: `ids` are not int64 [T], or `out` does not fit.
    """
    if ids.ndim != 1 or ids.is_floating_point() or (out is not None and out.shape != (len(ids), table.shape[1])):
        raise ValueError(f"embed: ids {ids.dtype} {tuple(ids.shape)}, table {tuple(table.shape)}")
    if not use_kernel(table):
        found = embed_reference(ids, table, first, vocab_size)
        return found if out is None else out.copy_(found)
    num_rows, dim = table.shape
    out = table.new_empty(len(ids), dim) if out is None else out
    block = min(MOST_COLUMNS, next_power_of_2(dim))
    if len(ids):
        _embed_kernel[(len(ids), cdiv(dim, block))](
            ids.contiguous(),
            table,
            out,
            first,
            num_rows,
            vocab_size,
            dim,
            BLOCK=block,
            **launch_options(table.device),
        )
    return out
