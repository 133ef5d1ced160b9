"""Products and experts with weights in 8 and 4 bits against the plain reference on the numbers they stand for."""

from __future__ import annotations

import pytest
import torch

from engine.kernels import fused_moe as experts
from engine.kernels.fused_moe import SharedExpert, fused_moe, fused_moe_reference, moe_few, moe_grouped
from engine.kernels.linear import LinearTuning, linear, linear_reference, skinny, widened
from engine.kernels.moe_single import SingleTuning
from engine.kernels.moe_single_fp8 import fits_single_fp8, moe_single_fp8
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.thin import ThinTuning, takes_thin, thin
from engine.quantised import Format, Quantised, QuantisedWeight
from tests.engine.kernels.device.helpers import assert_near
from tests.engine.kernels.device.test_moe import choose


def quantised(format: Format, *shape: int, block: tuple[int, int] = (128, 128)) -> Quantised:
    """Random weights whose blocks differ in size, so that a scale out of place shows."""
    n, k = shape[-2:]
    weight = torch.randn(shape) / k**0.5
    weight *= torch.logspace(-1, 1, n)[:, None] * torch.logspace(0.5, -0.5, k)
    value = QuantisedWeight(format, shape, block).value
    value.fill(weight)
    return value


def on_device(value: Quantised, device: torch.device) -> Quantised:
    return Quantised(value.format, value.packed.to(device), value.scales.to(device), value.block)


@pytest.mark.parametrize(("n", "k", "block"), [(40, 100, (16, 32)), (140, 256, (128, 128))])
@pytest.mark.parametrize("num_rows", [1, 70])
def test_skinny_product(num_rows: int, n: int, k: int, block: tuple[int, int], dtype: torch.dtype) -> None:
    """Rows and columns that no tile divides, blocks of scales smaller and larger than tiles, parts that are summed."""
    weight, x = quantised("fp8", n, k, block=block), torch.randn(num_rows, k, dtype=dtype)
    for tuning in (None, LinearTuning(32, 64, 4, 2, programs_per_sm=1)):
        assert_near(skinny(x, weight, tuning), linear_reference(x, weight))


def test_parts_are_summed_anew_at_every_launch(dtype: torch.dtype) -> None:
    weight = quantised("fp8", 16, 1024)
    for _ in range(2):
        x = torch.randn(4, 1024, dtype=dtype)
        assert_near(linear(x, weight), linear_reference(x, weight))


@pytest.mark.parametrize(
    ("n", "k", "block", "tuning"),
    [
        (40, 100, (16, 32), None),
        (140, 256, (128, 128), ThinTuning(8, 4)),
        (7, 48, (16, 16), ThinTuning(4, 2)),
        (3, 12, (16, 16), ThinTuning(1, 8)),
        (48, 512, (32, 128), ThinTuning(32, 4)),
    ],
)
def test_whole_rows_in_registers(
    n: int, k: int, block: tuple[int, int], tuning: ThinTuning | None, dtype: torch.dtype
) -> None:
    """One and two rows, one of them zero; sizes that runs, tiles and blocks of scales do not divide."""
    weight = quantised("fp8", n, k, block=block)
    weight.packed[n // 2] = 0
    for x in (torch.randn(1, k, dtype=dtype), torch.randn(2, k, dtype=dtype)):
        assert_near(thin(x, weight, tuning=tuning), linear_reference(x, weight))
        x[0] = 0
        assert not thin(x, weight, tuning=tuning)[0].any()


def test_a_row_has_no_part_in_the_other(dtype: torch.dtype) -> None:
    weight, x = quantised("fp8", 40, 256), torch.randn(2, 256, dtype=dtype)
    together = thin(x, weight)
    assert torch.equal(together, torch.cat([thin(row[None], weight) for row in x]))
    x[1, 7] = torch.nan
    assert torch.equal(thin(x, weight)[0], together[0])


def test_linear_takes_whole_rows_where_the_path_says_so(dtype: torch.dtype) -> None:
    """Not three rows, nor blocks of scales within a run of columns, nor the head."""
    weight, x = quantised("fp8", 40, 256), torch.randn(3, 256, dtype=dtype)
    narrow, head = quantised("fp8", 40, 256, block=(16, 8)), QuantisedWeight("fp8", (1 << 15, 16), (128, 128)).value
    assert not takes_thin(x[:2], weight)
    with taking(VARIANTS["thin"]):
        assert takes_thin(x[:2], weight)
        assert not takes_thin(x, weight)
        assert not takes_thin(x[:2], narrow)
        assert not takes_thin(x[:1, :16], head)
        out = torch.full((3, 40), 7.0, dtype=dtype)
        assert linear(x[:2], weight, out[:2]).data_ptr() == out.data_ptr()
    assert_near(out[:2], linear_reference(x[:2], weight))
    assert torch.equal(out[2], torch.full((40,), 7.0, dtype=dtype))
    with pytest.raises(ValueError, match="thin"):
        thin(x, weight)
    with pytest.raises(ValueError, match="blocks"):
        thin(x[:1], narrow)


@pytest.mark.parametrize("num_rows", [0, 3, 257])
def test_products_are_written_where_they_are_wanted(num_rows: int, dtype: torch.dtype) -> None:
    """By the kernel and, for many rows, by the library; nothing behind them is touched."""
    weight, x = quantised("fp8", 32, 128), torch.randn(num_rows, 128, dtype=dtype)
    memory = torch.full((num_rows + 1, 32), 7.0, dtype=dtype)
    got = linear(x, weight, out=memory[:num_rows])
    assert got.shape == (num_rows, 32)
    assert torch.equal(memory[num_rows], torch.full((32,), 7.0, dtype=dtype))
    if num_rows:
        assert got.data_ptr() == memory.data_ptr()
        assert_near(memory[:num_rows], linear_reference(x, weight))


def test_widened_weights_are_the_references(dtype: torch.dtype) -> None:
    weight = quantised("fp8", 150, 200, block=(64, 32))
    assert torch.equal(widened(weight, dtype), weight.dequantise(dtype))


def make_experts(format: Format, num_experts: int, dim: int, width: int, block: int) -> tuple[Quantised, Quantised]:
    blocks = (block, 128 if dim % 128 == 0 else 16), (16, block)
    w13 = quantised(format, num_experts, 2 * width, dim, block=blocks[0])
    return w13, quantised(format, num_experts, dim, width, block=blocks[1])


SIZES = {
    "fp8 ragged": (40, 48, 16),
    "fp8 wide": (128, 64, 32),
    "int4": (128, 128, 128),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("num_tokens", "run"), [(1, moe_few), (4, moe_few), (9, moe_grouped)])
def test_experts(num_tokens: int, run: object, size: str, dtype: torch.dtype) -> None:
    format: Format = "fp8" if size.startswith("fp8") else "int4"
    dim, width, block = SIZES[size]
    w13, w2 = make_experts(format, 4, dim, width, block)
    shared13, shared2 = make_experts("fp8", 1, dim, width, block)
    x, (ids, weights) = torch.randn(num_tokens, dim, dtype=dtype), choose(num_tokens, 4, 2)
    shared = SharedExpert(shared13[0], shared2[0]) if num_tokens != 4 else None
    got = run(x, w13, w2, ids, weights, shared)  # type: ignore[operator]
    assert_near(got, fused_moe_reference(x, w13, w2, ids, weights, shared))


@pytest.mark.parametrize(
    ("dim", "width", "block", "tuning", "top_k", "shared"),
    [
        (40, 48, 16, None, 3, True),
        (40, 48, 16, SingleTuning(4, 2, 2), 4, False),
        (128, 64, 32, SingleTuning(1, 16, 8), 4, True),
        (384, 32, 128, SingleTuning(32, 32), 2, True),
        (256, 256, 128, None, 4, True),
        (256, 256, 128, SingleTuning(4, 8), 3, False),
    ],
)
def test_one_token_through_whole_rows(
    dim: int, width: int, block: int, tuning: SingleTuning | None, top_k: int, shared: bool, dtype: torch.dtype
) -> None:
    """Sizes that fill the registers' rows and ones that do not, one and several blocks of scales, rows of zeros."""
    w13, w2 = make_experts("fp8", 6, dim, width, block)
    s13, s2 = make_experts("fp8", 1, dim, width, block)
    w13.packed[:, ::5] = 0
    w2.packed[1, ::3] = 0
    x, (ids, weights) = torch.randn(1, dim, dtype=dtype), choose(1, 6, top_k)
    both, expert = ((s13[0], s2[0]), SharedExpert(s13[0], s2[0])) if shared else (None, None)
    assert fits_single_fp8(w13, w2, both)
    want = fused_moe_reference(x, w13, w2, ids, weights, expert)
    assert_near(moe_single_fp8(x, w13, w2, ids, weights, both, torch.empty_like(x), tuning), want)


def test_one_token_takes_whole_rows_where_the_path_says_so(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """And where every expert is in fp8 and alike: not with routed experts in int4."""
    calls: list[int] = []
    monkeypatch.setattr(experts, "moe_single_fp8", lambda *args: calls.append(1) or moe_single_fp8(*args))
    w2_block = (16, 128)
    for format, blocks, taken in (("fp8", (128, 128), 1), ("int4", (128, 128), 0)):
        w13 = quantised(format, 4, 256, 128, block=blocks)
        w2 = quantised(format, 4, 128, 128, block=w2_block)
        shared = SharedExpert(quantised("fp8", 256, 128, block=blocks), quantised("fp8", 128, 128, block=w2_block))
        x, (ids, weights) = torch.randn(1, 128, dtype=dtype), choose(1, 4, 2)
        with taking(VARIANTS["single"]):
            got = fused_moe(x, w13, w2, ids, weights, shared)
        assert len(calls) == taken
        calls.clear()
        assert_near(got, fused_moe_reference(x, w13, w2, ids, weights, shared))


def test_chosen_tokens_are_gathered(dtype: torch.dtype) -> None:
    """Expert 0 serves 19 of 20 tokens, in two tiles of 16, experts 1 to 3 the few others, the shared expert all."""
    w13, w2 = make_experts("fp8", 4, 64, 32, 32)
    shared13, shared2 = make_experts("fp8", 1, 64, 32, 32)
    ids = torch.tensor([[0, 1 + i % 3] for i in range(20)])
    ids[7] = torch.tensor([2, 3])
    x, weights = torch.randn(20, 64, dtype=dtype), torch.rand(20, 2) + 0.1
    shared = SharedExpert(shared13[0], shared2[0])
    got = moe_few(x, w13, w2, ids, weights, shared)
    assert_near(got, fused_moe_reference(x, w13, w2, ids, weights, shared))


def test_a_wrong_scale_is_noticed(dtype: torch.dtype) -> None:
    """The comparison above can fail: one block of one expert twice as large."""
    w13, w2 = make_experts("fp8", 4, 128, 32, 16)
    x, (ids, weights) = torch.randn(3, 128, dtype=dtype), choose(3, 4, 2)
    want = fused_moe_reference(x, w13, w2, ids, weights)
    w13.scales[int(ids[0, 0]), 0, 0] *= 2
    with pytest.raises(AssertionError):
        assert_near(fused_moe(x, w13, w2, ids, weights), want)
