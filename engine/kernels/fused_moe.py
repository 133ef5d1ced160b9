"""Routed experts and the shared one: every expert a gated MLP, the routed ones' packed weights side by side."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.expert_sum import ExpertRows
from engine.kernels.linear import linear
from engine.kernels.moe_few import SINGLE_ROWS, FewTuning, down_few, down_single, up_few
from engine.kernels.moe_grouped import GroupedTuning, down_grouped, group_pairs, up_grouped
from engine.kernels.moe_grouped_split import down_grouped_split, up_grouped_split
from engine.kernels.moe_single import fits_single, moe_single
from engine.kernels.moe_single_fp8 import fits_single_fp8, moe_single_fp8
from engine.kernels.moe_split import down_split, up_split
from engine.kernels.paths import current
from engine.kernels.split_rows import can_split, split_rows, splits
from engine.kernels.triton_support import use_kernel
from engine.quantised import Quantised, Weight, dequantised

FEW_TOKENS = 64  # up to here reading weights is everything; behind it rows are worth sorting
# Of packed weights that are widened sorting takes 9 % less at 64, of plain ones 4 % at the price of launches.
FEW_TOKENS_SORTED = 32
NO_SPLIT = "the fp8 matrix unit reads weights in e4m3, in blocks of 32 columns or more"

# Packed weights: two warps, each with weight rows of its own, and tiles of 16 tokens. More of either would widen the
# same weights twice.
FEW_QUANTISED = FewTuning(32, 128, 32, 128, num_warps=2, num_stages=3, rows=16)

# The fp8 matrix unit reads tiles of 64 rows from shared memory. Three programs a multiprocessor hide each other's
# beginnings; the second product, which is short, has larger tiles, so that there are fewer beginnings.
FEW_SPLIT = FewTuning(64, 128, 128, 128, num_warps=4, num_stages=3, rows=16, split=True, registers=168)
# For up to 4 tokens (33 experts) such tiles leave a program or two to a multiprocessor, and too few copies under way.
FEW_SPLIT_THIN = FewTuning(32, 128, 64, 128, num_warps=4, num_stages=6, rows=16, split=True, down_stages=4)


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """The expert of every token: w13 [2F, D] and w2 [D, F]. Its F may differ from the routed experts'."""

    w13: Weight
    w2: Weight


def fused_moe_reference(
    x: Tensor, w13: Weight, w2: Weight, ids: Tensor, weights: Tensor, shared: SharedExpert | None = None
) -> Tensor:
    """Weighted sum of the chosen experts: x [T, D], w13 [E, 2F, D], w2 [E, D, F], ids and weights [T, k] -> [T, D].

    Each expert runs in `x`'s dtype; the weighting and the sum over k run in float32 and are rounded once; the shared
    expert is added behind that, in `x`'s dtype. Tokens are grouped by expert, so that each distinct expert's weights
    are read once. Quantised weights are widened to `x`'s dtype, one expert at a time.
    """
    num_tokens, top_k = ids.shape
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=w13.shape[0]).tolist()
    rows = x[order // top_k]
    out = torch.empty(num_tokens * top_k, w2.shape[1], dtype=x.dtype, device=x.device)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            up, down = dequantised(w13[expert], x.dtype), dequantised(w2[expert], x.dtype)
            out[order[start : start + count]] = gated_mlp_reference(rows[start : start + count], up, down)
            start += count
    terms = out.view(num_tokens, top_k, w2.shape[1]).float() * weights.unsqueeze(-1)
    routed = terms.sum(dim=1).to(x.dtype)
    if shared is None:
        return routed
    return routed + gated_mlp_reference(x, dequantised(shared.w13, x.dtype), dequantised(shared.w2, x.dtype))


def gated_mlp_reference(x: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
    """`w2 (silu(gate x) * up x)` with gate and up packed in w13 [2F, D]: [T, D] -> [T, D]."""
    gate, up = F.linear(x, w13).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, w2)


def gated_mlp(x: Tensor, w13: Weight, w2: Weight) -> Tensor:
    """The same with weights in any format, by the fastest products."""
    gate, up = linear(x, w13).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, w2)


def fused_moe(
    x: Tensor,
    w13: Weight,
    w2: Weight,
    ids: Tensor,
    weights: Tensor,
    shared: SharedExpert | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Checked form of `fused_moe_reference`, into contiguous `out` [T, D] if given; a token's experts must differ.

    Raises:
        ValueError: sizes, dtypes or memory layouts of tokens, choice and experts do not agree.
    """
    fits = x.shape[1] == w13.shape[2] == w2.shape[1] and w13.shape[1] == 2 * w2.shape[2] and ids.shape == weights.shape
    if shared is not None:
        fits = fits and shared.w13.shape[1] == x.shape[1] and shared.w13.shape[0] == 2 * shared.w2.shape[1]
    if not fits or ids.shape[0] != x.shape[0] or not w13.is_contiguous() or not w2.is_contiguous():
        raise ValueError(
            f"fused_moe: x {tuple(x.shape)}, w13 {tuple(w13.shape)}, w2 {tuple(w2.shape)}, ids {tuple(ids.shape)}, "
            f"weights {tuple(weights.shape)}; experts must be contiguous"
        )
    if not use_kernel(x):
        found = fused_moe_reference(x, w13, w2, ids, weights, shared)
        return found if out is None else out.copy_(found)
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    return _summed(experts_unsummed(x, w13, w2, ids, weights, shared, out), out) if x.shape[0] else out


def experts_unsummed(
    x: Tensor, w13: Weight, w2: Weight, ids: Tensor, weights: Tensor, shared: SharedExpert | None, out: Tensor
) -> Tensor | ExpertRows:
    """`fused_moe` by kernels, for arguments that it takes: -> the experts' rows, or `out` where summing is no step."""
    x, ids, weights = x.contiguous(), ids.contiguous(), weights.contiguous()
    sooner = current().sort_sooner and isinstance(w13, Tensor) and isinstance(w2, Tensor)
    widens = isinstance(w13, Quantised) and not _takes_split(x, w13, w2)
    if x.shape[0] > (FEW_TOKENS_SORTED if sooner or widens else FEW_TOKENS):
        return rows_grouped(x, w13, w2, ids, weights, shared)
    return rows_few(x, w13, w2, ids, weights, shared, None, out)


def _summed(found: Tensor | ExpertRows, out: Tensor) -> Tensor:
    return found.summed(out) if isinstance(found, ExpertRows) else found


def moe_few(
    x: Tensor,
    w13: Weight,
    w2: Weight,
    ids: Tensor,
    weights: Tensor,
    shared: SharedExpert | None,
    tuning: FewTuning | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fused_moe` of few tokens: two launches for one, three for more. A shared expert of equal width joins in."""
    out = torch.empty_like(x) if out is None else out
    return _summed(rows_few(x, w13, w2, ids, weights, shared, tuning, out), out)


def rows_few(
    x: Tensor,
    w13: Weight,
    w2: Weight,
    ids: Tensor,
    weights: Tensor,
    shared: SharedExpert | None,
    tuning: FewTuning | None,
    out: Tensor,
) -> Tensor | ExpertRows:
    """The same up to the sum, which the second launch of a single token makes itself, into `out`."""
    joins = shared is not None and shared.w2.shape == w2.shape[1:] and _same_blocks(shared.w2, w2)
    s13, s2 = (shared.w13, shared.w2) if joins and shared is not None else (None, None)
    if tuning is None:
        all_split = _takes_split(x, *(weight for weight in (w13, w2, s13, s2) if weight is not None))
        tuning = choose_few_tuning(len(x), x.element_size(), w13, all_split)
    if len(x) == 1 and (joins or shared is None) and current().single_experts:
        both = None if s13 is None or s2 is None else (s13, s2)
        if fits_single(w13, w2):
            return moe_single(x, w13, w2, ids, weights, both, out)  # type: ignore[arg-type]
        if fits_single_fp8(w13, w2, both):
            return moe_single_fp8(x, w13, w2, ids, weights, both, out)  # type: ignore[arg-type]
    if tuning.split:
        return _rows(_split_experts(x, w13, w2, s13, s2, ids, tuning), x, ids, weights, shared, joins)
    h = up_few(x, w13, s13, ids, tuning)
    if len(x) == 1 and (joins or shared is None) and _fits_single(w2):
        return down_single(h, w2, s2, ids, weights, out)
    return _rows(down_few(h, w2, s2, ids, tuning), x, ids, weights, shared, joins)


def _split_experts(
    x: Tensor, w13: Weight, w2: Weight, s13: Weight | None, s2: Weight | None, ids: Tensor, tuning: FewTuning
) -> Tensor:
    """Rows [T * k (+ T), D] of all experts by the fp8 matrix unit, not yet weighted."""
    if not (splits(w13) and splits(w2) and (s13 is None or splits(s13)) and (s2 is None or splits(s2))):
        raise ValueError(NO_SPLIT)
    h, plan = up_split(split_rows(x), w13, s13, ids, x.dtype, tuning)
    return down_split(split_rows(h), w2, s2, plan, x.dtype, tuning)


def _rows(y: Tensor, x: Tensor, ids: Tensor, weights: Tensor, shared: SharedExpert | None, joins: bool) -> ExpertRows:
    """The experts' rows of `y`; the shared one's are behind them if it `joins`, or are made here."""
    if joins:
        return ExpertRows(y[: ids.numel()], weights, y[ids.numel() :])
    return ExpertRows(y, weights, None if shared is None else gated_mlp(x, shared.w13, shared.w2))


def moe_grouped(
    x: Tensor,
    w13: Weight,
    w2: Weight,
    ids: Tensor,
    weights: Tensor,
    shared: SharedExpert | None,
    tuning: GroupedTuning | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fused_moe` of many tokens; the shared expert, a plain product here, is left to the linear algebra library."""
    out = torch.empty_like(x) if out is None else out
    return rows_grouped(x, w13, w2, ids, weights, shared, tuning).summed(out)


def rows_grouped(
    x: Tensor,
    w13: Weight,
    w2: Weight,
    ids: Tensor,
    weights: Tensor,
    shared: SharedExpert | None,
    tuning: GroupedTuning | None = None,
) -> ExpertRows:
    """The same up to the sum."""
    if tuning is None:
        tuning = choose_grouped_tuning(ids.numel() / w13.shape[0], x.element_size(), w13, _takes_split(x, w13, w2))
    grouping = group_pairs(ids, w13.shape[0], tuning.rows)
    if tuning.split:
        if not (splits(w13) and splits(w2)):
            raise ValueError(NO_SPLIT)
        h = up_grouped_split(split_rows(x), w13, grouping, ids.shape[1], x.dtype, tuning)
        y = down_grouped_split(split_rows(h), w2, grouping, x.dtype, tuning)
    else:
        h = up_grouped(x, w13, grouping, ids.shape[1], tuning)
        y = down_grouped(h, w2, grouping, tuning)
    return ExpertRows(y, weights, None if shared is None else gated_mlp(x, shared.w13, shared.w2))


def _takes_split(x: Tensor, *weights: Weight) -> bool:
    """Whether rows like these go through the fp8 matrix unit, by the current paths."""
    return current().split_fp8 and can_split(x, *weights)


def _same_blocks(a: Weight, b: Weight) -> bool:
    """Whether one launch takes both: they may differ in format, but not in where a step of it may end."""
    if isinstance(a, Quantised) and isinstance(b, Quantised):
        return a.block == b.block
    return isinstance(a, Tensor) and isinstance(b, Tensor)


def _fits_single(w2: Weight) -> bool:
    """Whether `down_single` takes it: plain, or fp8 with all the rows of a tile under one scale."""
    return isinstance(w2, Tensor) or (w2.format == "fp8" and w2.block[0] % SINGLE_ROWS == 0)


def choose_few_tuning(
    num_tokens: int, element_bytes: int, weight: Weight | None = None, split: bool = False
) -> FewTuning:
    """Tiles that give a Hopper GPU two programs or more for each multiprocessor at the released sizes.

    `split` says that rows and weights allow the fp8 matrix unit.

    Measured on one H200 against the 4.38 TB/s that it reads (docs/performance.md): 95 % at 8 tokens, 98 % at 32, where
    deeper pipelines and smaller tiles of the second product take 4 % less than those that are best at 8.
    """
    if element_bytes > 2:
        return FewTuning(16, 64, 16, 64, num_stages=2, rows=16 if isinstance(weight, Quantised) else 0)
    if isinstance(weight, Quantised):
        if not split or num_tokens == 1:
            return FEW_QUANTISED
        return FEW_SPLIT_THIN if num_tokens <= 4 else FEW_SPLIT
    if num_tokens == 1:
        return FewTuning(32, 128, 64, 128)
    if num_tokens <= 16:
        return FewTuning(64, 128, 128, 128, num_stages=3)
    return FewTuning(64, 128, 64, 128, num_stages=4)


def choose_grouped_tuning(
    rows_per_expert: float, element_bytes: int, weight: Weight | None = None, split: bool = False
) -> GroupedTuning:
    """Tiles that waste few rows on experts with few tokens, and few weight reads on experts with many."""
    if element_bytes > 2:
        return GroupedTuning(16, 16, 64, 16, 64, 4, 2)
    if isinstance(weight, Quantised):
        return _choose_grouped_split(rows_per_expert) if split else _choose_grouped_quantised(rows_per_expert)
    if rows_per_expert <= 12:
        return GroupedTuning(16, 64, 128, 64, 128, 4, 3)
    if rows_per_expert <= 48:
        return GroupedTuning(64, 64, 64, 128, 64, 4, 4)
    # On one H200 0.94 and 0.96 times what tiles without a tail take at 64 and 256 rows an expert, tp 2.
    return GroupedTuning(128, 128, 64, 128, 64, 8, 3, tail=64)


def _choose_grouped_quantised(rows_per_expert: float) -> GroupedTuning:
    if rows_per_expert <= 12:
        return GroupedTuning(16, 32, 128, 32, 128, 2, 4)
    if rows_per_expert <= 96:
        return GroupedTuning(64, 64, 128, 64, 128, 4, 3)
    return GroupedTuning(128, 64, 128, 128, 128, 8, 3)


def _choose_grouped_split(rows_per_expert: float) -> GroupedTuning:
    """On one H200 0.79 and 0.90 times what widening takes at 64 and 256 rows an expert, tp 2."""
    if rows_per_expert <= 12:
        return GroupedTuning(16, 64, 128, 128, 128, 4, 3, split=True)
    if rows_per_expert <= 96:
        return GroupedTuning(32, 64, 128, 64, 128, 4, 3, split=True)
    return GroupedTuning(64, 32, 128, 64, 128, 4, 4, split=True)
