"""Rows in two parts of 8 bits, and experts by the fp8 matrix unit.

Rows are bfloat16 in every mode: what is claimed to be exact is so for its 8 bits. The interpreter truncates where it
stores bfloat16, so products are stored in float32 here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.fused_moe import SharedExpert, fused_moe_reference, moe_few, moe_grouped
from engine.kernels.linear import LinearTuning, linear_reference, skinny
from engine.kernels.moe_few import FewTuning
from engine.kernels.moe_grouped import GroupedTuning, group_pairs
from engine.kernels.moe_grouped_split import down_grouped_split, up_grouped_split
from engine.kernels.moe_split import down_split, up_split
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.split_rows import can_split, split_rows, split_rows_reference
from engine.quantised import Quantised, QuantisedWeight
from tests.engine.kernels.device.conftest import ON_GPU
from tests.engine.kernels.device.test_moe import choose
from tests.engine.kernels.device.test_quantised import make_experts, quantised

# The interpreter adds in float32; a silu far below zero makes much of that rounding. Hopper's fp8 unit cuts each of 32
# products at about 2^-13 of the largest of them.
TOLERANCE = 4e-3 if ON_GPU else 2e-5
# Rows stored five times on the way: rounded on a GPU, truncated in the interpreter.
BFLOAT16 = 1e-2 if ON_GPU else 4e-2


@pytest.fixture(autouse=True)
def _split() -> Iterator[None]:
    """By the path that this is about."""
    with taking(VARIANTS["split"]):
        yield


def rows_of_all_sizes(num_rows: int, width: int) -> Tensor:
    """Outliers of 1000 times the rest, tiny rows, one of zeros and one with zeros."""
    x = torch.randn(num_rows, width).bfloat16()
    x *= torch.logspace(-6, -1, num_rows).bfloat16()[:, None]
    x[::3, 5] *= 1000
    x[1] = 0
    x[2, ::2] = 0
    return x


def errors(got: Tensor, want: Tensor) -> Tensor:
    """Relative L2 error of each row; 0 where both are zero."""
    wrong, size = (got.double() - want.double()).norm(dim=1), want.double().norm(dim=1)
    return torch.where(size > 0, wrong / size, wrong)


@pytest.mark.parametrize("split", [split_rows, split_rows_reference])
@pytest.mark.parametrize("width", [32, 100, 512])
def test_eight_bits_come_back(split: object, width: int) -> None:
    """Bit by bit down to 2^-13 of a row's largest value, and within 2^-21 of it below."""
    x = rows_of_all_sizes(9, width)
    x[4] = x[4].sign() * torch.logspace(0, -9, width).bfloat16()
    got, want = split(x).joined(), x.float()  # type: ignore[operator]
    largest = want.abs().amax(dim=1, keepdim=True)
    exact = want.abs() >= largest * 2.0**-13
    assert torch.equal(got[exact], want[exact])
    assert bool(((got - want).abs() <= largest * 2.0**-21).all())
    assert not exact[4].all()


def test_kernel_and_reference_split_alike() -> None:
    x = rows_of_all_sizes(7, 70)
    # Scales down there are the least normal number. The interpreter misreads bfloat16 below it, so values are not.
    x[5] = ((1 + torch.rand(70)) * torch.randn(70).sign() * 2.0**-120).bfloat16()
    got, want = split_rows(x), split_rows_reference(x)
    assert torch.equal(got.scales, want.scales)
    assert torch.equal(got.parts.float(), want.parts.float())
    assert got.scales[1] == 1
    assert got.scales[5] == 2.0**-126


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    x = torch.randn(3, 40).bfloat16()
    x[1, 7] = value
    for split in (split_rows(x), split_rows_reference(x)):
        assert split.scales.isfinite().tolist() == [True, False, True]


def wide(weight: Quantised) -> Tensor:
    return weight.dequantise(torch.float32).double()


def up_exactly(x: Tensor, w13: Quantised) -> Tensor:
    gate, up = (x.double() @ wide(w13).mT).chunk(2, dim=-1)
    return F.silu(gate) * up


TUNINGS = {
    "gathered": FewTuning(64, 128, 64, 128, rows=16, split=True),
    "all tokens": FewTuning(32, 64, 128, 32, num_stages=3, split=True),
    "eight": FewTuning(64, 128, 128, 128, rows=8, split=True),
}
SIZES = {"even": (128, 64, 64), "ragged": (96, 80, 32), "tiles wider than weights": (40, 48, 32)}


def experts(dim: int, width: int, block: int) -> tuple[Quantised, Quantised, SharedExpert]:
    """Blocks of scales of `block` columns in both products, four experts."""
    (w13, w2), (s13, s2) = (make_experts("fp8", num, dim, width, block) for num in (4, 1))
    return _blocks(w13, block), _blocks(w2, block), SharedExpert(_blocks(s13, block)[0], _blocks(s2, block)[0])


def _blocks(weight: Quantised, block: int) -> Quantised:
    value = QuantisedWeight("fp8", tuple(weight.shape), (16, block)).value
    value.fill(weight.dequantise(torch.float32))
    return value


@pytest.mark.parametrize(
    ("num_tokens", "size", "tuning"),
    [
        (20, "even", "gathered"),
        (3, "even", "all tokens"),
        (20, "ragged", "all tokens"),
        (20, "ragged", "eight"),
        (3, "tiles wider than weights", "gathered"),
    ],
)
def test_products_of_experts(num_tokens: int, size: str, tuning: str) -> None:
    """Each row against its own expert's product, whatever its size beside the other rows."""
    w13, w2, shared = experts(*SIZES[size])
    x, (ids, _) = rows_of_all_sizes(num_tokens, w13.shape[2]), choose(num_tokens, 4, 2)
    expert = torch.cat([ids.flatten(), torch.full((num_tokens,), 4)])
    all13, all2 = ([*w, s] for w, s in ((w13, shared.w13), (w2, shared.w2)))
    tokens = torch.cat([x.repeat_interleave(2, dim=0), x])
    h, plan = up_split(split_rows(x), w13, shared.w13, ids, torch.float32, TUNINGS[tuning])
    want = torch.stack([up_exactly(row, all13[e]) for row, e in zip(tokens, expert.tolist(), strict=True)])
    assert errors(h, want).max() < TOLERANCE
    h = h.bfloat16()
    y = down_split(split_rows(h), w2, shared.w2, plan, torch.float32, TUNINGS[tuning])
    want = torch.stack([row.double() @ wide(all2[e]).mT for row, e in zip(h, expert.tolist(), strict=True)])
    assert errors(y, want).max() < TOLERANCE


@pytest.mark.parametrize("size", ["even", "ragged"])
@pytest.mark.parametrize("tile", [(16, 32, 64, 64, 32, 4, 3), (32, 64, 64, 64, 64, 4, 3), (64, 32, 64, 64, 64, 4, 4)])
def test_products_of_sorted_rows(tile: tuple[int, ...], size: str) -> None:
    """The same where pairs are sorted: h in their order, y in that of the pairs."""
    w13, w2, _ = experts(*SIZES[size])
    x, (ids, _) = rows_of_all_sizes(21, w13.shape[2]), choose(21, 4, 2)
    tuning = GroupedTuning(*tile, split=True)
    grouping = group_pairs(ids, 4, tuning.rows)
    pairs = grouping.pairs.long()
    expert, tokens = ids.flatten(), x.repeat_interleave(2, dim=0)
    h = up_grouped_split(split_rows(x), w13, grouping, 2, torch.float32, tuning)
    want = torch.stack([up_exactly(tokens[p], w13[int(expert[p])]) for p in pairs.tolist()])
    assert errors(h, want).max() < TOLERANCE
    h = h.bfloat16()
    y = down_grouped_split(split_rows(h), w2, grouping, torch.float32, tuning)
    want = torch.stack([h[i].double() @ wide(w2[int(expert[p])]).mT for i, p in enumerate(pairs.tolist())])
    assert errors(y[pairs], want).max() < TOLERANCE


def test_product_in_parts() -> None:
    """Of rows that are float32 by type and bfloat16 by value: more than a tile has, and ragged sizes."""
    weight = _blocks(quantised("fp8", 40, 400), 32)
    x = rows_of_all_sizes(70, 400).float()
    got = skinny(x, weight, LinearTuning(64, 64, 4, 3, programs_per_sm=8, split=True))
    assert errors(got, linear_reference(x.double(), weight)).max() < TOLERANCE


def model_rows(num_tokens: int, dim: int) -> Tensor:
    """Rows whose products bfloat16 holds, with outliers."""
    x = torch.randn(num_tokens, dim).bfloat16()
    x[::3, 5] *= 1000
    x[1] *= 1e-3
    return x


@pytest.mark.parametrize("num_tokens", [2, 20])
def test_experts_of_bfloat16_rows_take_it(num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, with the shared expert joined in; the interpreter truncates the rows that it stores to bfloat16."""
    w13, w2, shared = experts(128, 64, 64)
    x, (ids, weights) = model_rows(num_tokens, 128), choose(num_tokens, 4, 2)
    assert can_split(x, w13, w2, shared.w13, shared.w2)
    taken: list[int] = []
    monkeypatch.setattr(
        "engine.kernels.fused_moe.split_rows", lambda rows: (taken.append(len(rows)), split_rows(rows))[1]
    )
    got = moe_few(x, w13, w2, ids, weights, shared)
    assert taken == [num_tokens, 3 * num_tokens]
    want = fused_moe_reference(x.float(), w13, w2, ids, weights, shared)
    assert errors(got, want).max() < BFLOAT16


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    w13, w2, shared = experts(128, 64, 64)
    x, (ids, weights) = model_rows(5, 128), choose(5, 4, 2)
    want = moe_few(x, w13, w2, ids, weights, shared)
    x[3, 9] = torch.inf
    got = moe_few(x, w13, w2, ids, weights, shared)
    assert got[3].isnan().all()
    keep = torch.tensor([0, 1, 2, 4])
    assert torch.equal(got[keep], want[keep])


def test_what_the_matrix_unit_cannot_read_is_widened_or_refused() -> None:
    """float32 rows, blocks of 16 columns, weights of 4 bits."""
    w13, w2, shared = experts(128, 64, 64)
    x, (ids, weights) = model_rows(3, 128), choose(3, 4, 2)
    assert not can_split(x.float(), w13, w2)
    narrow, _ = make_experts("fp8", 4, 40, 48, 16)
    int4, _ = make_experts("int4", 4, 128, 128, 128)
    assert not can_split(x, narrow)
    assert not can_split(x, int4)
    with pytest.raises(ValueError, match="e4m3"):
        moe_few(x, int4, w2, ids, weights, None, TUNINGS["gathered"])
    with pytest.raises(ValueError, match="e4m3"):
        moe_grouped(x, int4, w2, ids, weights, None, GroupedTuning(16, 32, 64, 64, 32, 4, 3, split=True))
    assert bool(moe_few(x.float(), w13, w2, ids, weights, shared).isfinite().all())
