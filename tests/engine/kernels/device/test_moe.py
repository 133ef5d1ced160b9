"""The experts of few and of many tokens, and the sort between them."""
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.fused_moe import (
    FEW_TOKENS,
    SharedExpert,
    fused_moe,
    fused_moe_reference,
    moe_few,
    moe_grouped,
)
from engine.kernels.moe_few import _assigned
from engine.kernels.moe_grouped import GroupedTuning, _find_tile, group_pairs
from engine.kernels.moe_single import SingleTuning, moe_single
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.triton_support import jit, tl
from tests.engine.kernels.device.helpers import assert_near

E, K, D, F = 9, 3, 40, 24


class Layer:
    """Random experts with outputs of about unit size."""

    def __init__(
        self, dtype: torch.dtype, shared_width: int | None = F, sizes: tuple[int, int, int] = (E, D, F)
    ) -> None:
        num_experts, dim, width = sizes
        self.w13 = (torch.randn(num_experts, 2 * width, dim) / dim**0.5).to(dtype)
        self.w2 = (torch.randn(num_experts, dim, width) / width**0.5).to(dtype)
        self.shared = None
        if shared_width:
            w13, w2 = torch.randn(2 * shared_width, dim) / dim**0.5, torch.randn(dim, shared_width) / shared_width**0.5
            self.shared = SharedExpert(w13.to(dtype), w2.to(dtype))
        self.dtype, self.dim = dtype, dim

    def tokens(self, count: int) -> Tensor:
        return torch.randn(count, self.dim, dtype=self.dtype)


def choose(num_tokens: int, num_experts: int = E, top_k: int = K) -> tuple[Tensor, Tensor]:
    """Different random experts for each token, and weights."""
    ids = torch.rand(num_tokens, num_experts).argsort(dim=1)[:, :top_k].contiguous()
    return ids, torch.rand(num_tokens, top_k) + 0.1


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("top_k", [3, 4])
@pytest.mark.parametrize("tuning", [None, SingleTuning(4, 2, 2), SingleTuning(1, 16, 8)])
def test_one_token_through_whole_rows(
    shared: bool, top_k: int, tuning: SingleTuning | None, dtype: torch.dtype
) -> None:
    """Sizes that fill the registers' rows, and ones that do not."""
    for sizes in ((E, 40, 24), (E, 64, 32)):
        layer = Layer(dtype, sizes[2] if shared else None, sizes)
        x, (ids, weights) = layer.tokens(1), choose(1, E, top_k)
        both = None if layer.shared is None else (layer.shared.w13, layer.shared.w2)
        want = fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared)
        assert_near(moe_single(x, layer.w13, layer.w2, ids, weights, both, torch.empty_like(x), tuning), want)
        with taking(VARIANTS["single"]):
            assert_near(fused_moe(x, layer.w13, layer.w2, ids, weights, layer.shared), want)


@pytest.mark.parametrize("shared_width", [F, None, 8])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 17])
def test_few_tokens(num_tokens: int, shared_width: int | None, dtype: torch.dtype) -> None:
    """One token, fewer pairs than experts, more pairs than experts, more than one tile's least rows."""
    layer = Layer(dtype, shared_width)
    x, (ids, weights) = layer.tokens(num_tokens), choose(num_tokens)
    got = moe_few(x, layer.w13, layer.w2, ids, weights, layer.shared)
    assert_near(got, fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared))


@pytest.mark.parametrize("shared_width", [F, None])
@pytest.mark.parametrize("num_tokens", [1, 5, 40])
def test_many_tokens(num_tokens: int, shared_width: int | None, dtype: torch.dtype) -> None:
    layer = Layer(dtype, shared_width)
    x, (ids, weights) = layer.tokens(num_tokens), choose(num_tokens)
    got = moe_grouped(x, layer.w13, layer.w2, ids, weights, layer.shared)
    assert_near(got, fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared))


@pytest.mark.parametrize("run", [moe_few, moe_grouped])
def test_every_token_chooses_the_same_experts(run, dtype: torch.dtype) -> None:
    """32 rows of one expert fill tiles exactly; the other experts have none."""
    layer = Layer(dtype)
    x, weights = layer.tokens(FEW_TOKENS), torch.rand(FEW_TOKENS, K)
    ids = torch.tensor([7, 0, 3]).expand(FEW_TOKENS, K).contiguous()
    got = run(x, layer.w13, layer.w2, ids, weights, layer.shared)
    assert_near(got, fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared))


@pytest.mark.parametrize("run", [moe_few, moe_grouped])
def test_experts_that_nobody_chose_are_not_read(run, dtype: torch.dtype) -> None:
    layer = Layer(dtype)
    x, (ids, weights) = layer.tokens(3), choose(3, num_experts=4)
    want = fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared)
    idle = [e for e in range(E) if e not in ids.flatten().tolist()]
    layer.w13[idle], layer.w2[idle] = float("nan"), float("nan")
    assert_near(run(x, layer.w13, layer.w2, ids, weights, layer.shared), want)


@pytest.mark.parametrize("num_tokens", [0, 1, FEW_TOKENS, FEW_TOKENS + 1])
def test_wrapper_takes_either_path(num_tokens: int, dtype: torch.dtype) -> None:
    layer = Layer(dtype, sizes=(4, 32, 16), shared_width=16)
    x, (ids, weights) = layer.tokens(num_tokens), choose(num_tokens, 4, 2)
    got = fused_moe(x, layer.w13, layer.w2, ids, weights, layer.shared)
    want = fused_moe_reference(x, layer.w13, layer.w2, ids, weights, layer.shared)
    assert got.shape == want.shape
    if num_tokens:
        assert_near(got, want)


@jit
def _record_kernel(
    ids_ptr, busy_ptr, expert_ptr, num_tokens, padded_k: tl.constexpr, rows: tl.constexpr, by_expert: tl.constexpr
):
    slot = tl.program_id(0)
    expert, _row, busy, _shared = _assigned(
        ids_ptr, slot, tl.num_programs(0), num_tokens, 3, padded_k, rows, by_expert, False
    )
    tl.store(busy_ptr + slot, busy.to(tl.int32))
    tl.store(expert_ptr + slot, expert)


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_each_expert_is_served_exactly_once(num_tokens: int) -> None:
    """So its weights are read exactly once: one slot a distinct expert works, the others return."""
    ids, _ = choose(num_tokens)
    by_expert = ids.numel() > E
    slots = E if by_expert else ids.numel()
    busy, expert = torch.empty(2, slots, dtype=torch.int32).unbind()
    _record_kernel[(slots,)](ids, busy, expert, num_tokens, padded_k=4, rows=16, by_expert=by_expert)
    assert sorted(expert[busy == 1].tolist()) == sorted(set(ids.flatten().tolist()))


@pytest.mark.parametrize(("num_tokens", "rows"), [(1, 16), (40, 16), (50, 4)])
def test_pairs_are_grouped_by_expert(num_tokens: int, rows: int) -> None:
    ids, _ = choose(num_tokens)
    grouping = group_pairs(ids, E, rows)
    flat = ids.flatten()
    starts, first_tile = grouping.starts.tolist(), grouping.first_tile.tolist()
    assert starts[0] == first_tile[0] == 0
    for expert in range(E):
        members = grouping.pairs[starts[expert] : starts[expert + 1]].tolist()
        assert sorted(members) == (flat == expert).nonzero().flatten().tolist()
        assert first_tile[expert + 1] - first_tile[expert] == -(-len(members) // rows)
    assert starts[E] == flat.numel()
    assert first_tile[E] <= grouping.max_tiles


@jit
def _cover_kernel(
    starts_ptr, first_tile_ptr, owner_ptr, times_ptr, num_experts: tl.constexpr, bins: tl.constexpr, rows: tl.constexpr
):
    expert, start, end = _find_tile(tl.program_id(0), starts_ptr, first_tile_ptr, num_experts, bins, rows)
    row = start + tl.arange(0, rows)
    exists = row < end
    if expert < num_experts:
        tl.store(owner_ptr + row, expert + row * 0, mask=exists)
        tl.atomic_add(times_ptr + row, 1, mask=exists)


def test_every_sorted_pair_is_in_one_tile_of_its_expert() -> None:
    ids, _ = choose(50)
    grouping = group_pairs(ids, E, 16)
    owner, times = torch.zeros(2, ids.numel(), dtype=torch.int32).unbind()
    _cover_kernel[(grouping.max_tiles,)](
        grouping.starts, grouping.first_tile, owner, times, num_experts=E, bins=16, rows=16
    )
    assert times.tolist() == [1] * ids.numel()
    assert torch.equal(owner.long(), ids.flatten()[grouping.pairs.long()])


def test_more_pairs_than_are_counted_at_once(dtype: torch.dtype) -> None:
    ids, _ = choose(900)
    grouping = group_pairs(ids, E, 64)
    counts = torch.bincount(ids.flatten(), minlength=E)
    assert grouping.starts.diff().tolist() == counts.tolist()
    assert sorted(grouping.pairs.tolist()) == list(range(ids.numel()))


def test_tiles_that_do_not_divide_the_sizes(dtype: torch.dtype) -> None:
    layer = Layer(dtype, shared_width=None)
    x, (ids, weights) = layer.tokens(21), choose(21)
    tuning = GroupedTuning(rows=16, block_f=16, up_k=32, block_d=32, down_k=16, num_warps=4, num_stages=2, down_warps=2)
    got = moe_grouped(x, layer.w13, layer.w2, ids, weights, None, tuning)
    assert_near(got, fused_moe_reference(x, layer.w13, layer.w2, ids, weights, None))


@pytest.mark.parametrize("down_warps", [0, 2])
def test_nearly_empty_tiles_are_smaller_ones(down_warps: int, dtype: torch.dtype) -> None:
    """Experts whose last tile has few rows, many or none, and one with fewer rows than any tile."""
    layer = Layer(dtype, shared_width=None, sizes=(5, 64, 32))
    counts = (32 + 3, 32 + 20, 32, 16, 17)
    ids = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))[torch.randperm(sum(counts))][:, None]
    x, weights = layer.tokens(len(ids)), torch.rand(len(ids), 1)
    tuning = GroupedTuning(32, 16, 32, 32, 16, 4, 3, down_warps=down_warps, tail=16)
    got = moe_grouped(x, layer.w13, layer.w2, ids.contiguous(), weights, None, tuning)
    assert_near(got, fused_moe_reference(x, layer.w13, layer.w2, ids, weights, None))
