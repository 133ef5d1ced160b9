"""The weighted sum of a token's experts: by a launch of its own, or by the kernel that adds it to the residual stream.

The second saves a launch and a pass over the sum. It is worth most where few tokens make both short.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.kernels.pairs import high_of, low_of, paired
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl

SUM_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """Outputs of a token's experts, yet to be weighted and added.

    `rows` [T * k, D] lie by token and choice, `weights` float32 [T, k]; `shared` [T, D] is the shared expert's output,
    which weighs 1. The sum over k runs in float32 and is rounded once; the shared output is added to that.
    """

    rows: Tensor
    weights: Tensor
    shared: Tensor | None

    @property
    def num_tokens(self) -> int:
        return len(self.weights)

    def summed(self, out: Tensor) -> Tensor:
        """Into contiguous `out` [T, D]."""
        dim = self.rows.shape[1]
        block = min(SUM_BLOCK, next_power_of_2(dim))
        _sum_kernel[(self.num_tokens, cdiv(dim, block))](
            *self.arguments(), out, dim, **self.constants(), BLOCK=block, **launch_options(out.device)
        )
        return out

    def arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pointers for `weighted` and `weighted_pairs`; one without a shared expert is not read."""
        return self.rows, self.weights, self.rows if self.shared is None else self.shared

    def constants(self) -> dict[str, Any]:
        """Constants for the same."""
        return {"TOP_K": self.weights.shape[1], "SHARED": self.shared is not None}


def expert_sum_reference(found: ExpertRows) -> Tensor:
    """-> [T, D] in the dtype of the rows."""
    num_tokens, top_k = found.weights.shape
    terms = found.rows.view(num_tokens, top_k, -1).float() * found.weights.unsqueeze(-1)
    routed = terms.sum(dim=1).to(found.rows.dtype)
    return routed if found.shared is None else routed + found.shared


@jit
def weighted(
    rows_ptr, weights_ptr, shared_ptr, token, col, mask, dim: tl.constexpr, TOP_K: tl.constexpr, SHARED: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Columns `col` of one token's sum, in float32; the routed part is rounded to `dtype`."""
    total = tl.zeros(col.shape, tl.float32)
    for k in tl.static_range(TOP_K):
        y = tl.load(rows_ptr + (token * TOP_K + k) * dim + col, mask=mask, other=0.0)
        total += y.to(tl.float32) * tl.load(weights_ptr + token * TOP_K + k)
    total = total.to(dtype).to(tl.float32)
    if SHARED:
        total += tl.load(shared_ptr + token * dim + col, mask=mask, other=0.0).to(tl.float32)
    return total


@jit
def _sum_kernel(
    rows_ptr,
    weights_ptr,
    shared_ptr,
    out_ptr,
    dim: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """A block of one token's sum."""
    wait_then_release(PDL)
    token = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = col < dim
    total = weighted(rows_ptr, weights_ptr, shared_ptr, token, col, mask, dim, TOP_K, SHARED, out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * dim + col, total, mask=mask)


@jit
def weighted_pairs(
    rows_ptr, weights_ptr, shared_ptr, token, col, PAIRS: tl.constexpr, TOP_K: tl.constexpr, SHARED: tl.constexpr
):
    """`weighted` of bfloat16 read as pairs [., PAIRS] in 32 bits: -> pairs `col`, rounded."""
    first, second = tl.zeros(col.shape, tl.float32), tl.zeros(col.shape, tl.float32)
    for k in tl.static_range(TOP_K):
        y = tl.load(rows_ptr + (token * TOP_K + k) * PAIRS + col)
        weight = tl.load(weights_ptr + token * TOP_K + k)
        first += low_of(y) * weight
        second += high_of(y) * weight
    found = paired(first, second)
    if SHARED:
        shared = tl.load(shared_ptr + token * PAIRS + col)
        found = paired(low_of(found) + low_of(shared), high_of(found) + high_of(shared))
    return found
