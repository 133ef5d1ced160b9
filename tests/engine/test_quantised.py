"""Packing: the formats' errors, what is exact, and where blocks may be cut."""

from __future__ import annotations

import pytest
import torch

from engine import quantised
from engine.quantised import Format, Quantised, QuantisedWeight, block_of, pack


def packed(format: Format, weight: torch.Tensor, block: tuple[int, int] = (128, 128)) -> Quantised:
    value = QuantisedWeight(format, tuple(weight.shape), block).value
    value.fill(weight)
    return value


def relative_error(value: Quantised, weight: torch.Tensor) -> float:
    return float((value.dequantise(torch.float32) - weight).norm() / weight.norm())


@pytest.mark.parametrize(("format", "least", "most"), [("fp8", 0.024, 0.029), ("int4", 0.095, 0.11)])
def test_error_on_normal_weights(format: Format, least: float, most: float) -> None:
    """e4m3 keeps 4 significant bits: 2.7 % of a normal weight. int4 spreads 16 levels over 128 values: 10 %."""
    weight = torch.randn(2, 256, 384, generator=torch.Generator().manual_seed(0)) / 20
    assert least < relative_error(packed(format, weight), weight) < most


def test_fp8_worst_value() -> None:
    """No value above a 2^14th of its block's largest is off by more than a sixteenth of itself."""
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(1))
    wrong = (packed("fp8", weight).dequantise(torch.float32) - weight).abs() / weight.abs()
    assert wrong[weight.abs() > 2**-12].max() <= 2**-4


def test_int4_worst_value() -> None:
    """Half a step, where nothing is clipped; a whole one where the opposite end is."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    value = packed("int4", weight)
    step = value.scales.float().abs().transpose(0, 1).repeat_interleave(128, dim=1)
    wrong = (value.dequantise(torch.float32) - weight).abs() / step
    assert wrong.max() <= 1.05
    assert (wrong <= 0.5).float().mean() > 0.99


def test_largest_value_of_a_group_keeps_its_place_and_sign() -> None:
    weight = torch.zeros(2, 256)
    weight[0, 5], weight[0, 69], weight[1, 200] = 8.0, -3.0, -4.0
    assert torch.equal(packed("int4", weight).dequantise(torch.float32), weight)


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_packing_packed_numbers_changes_nothing(format: Format) -> None:
    once = packed(format, torch.randn(3, 128, 256, generator=torch.Generator().manual_seed(3)))
    weight = once.dequantise(torch.float32)
    assert torch.equal(packed(format, weight).dequantise(torch.float32), weight)


def test_fp8_is_exact_in_bfloat16_and_its_scales_are_powers_of_two() -> None:
    value = packed("fp8", torch.randn(256, 256, generator=torch.Generator().manual_seed(4)) / 64)
    assert torch.equal(value.dequantise(torch.bfloat16).float(), value.dequantise(torch.float32))
    assert torch.equal(torch.frexp(value.scales).mantissa, torch.full_like(value.scales, 0.5))


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_parts_are_filled_as_the_whole(format: Format) -> None:
    """Experts and halves one after the other, as a checkpoint has them."""
    weight = torch.randn(3, 64, 256, generator=torch.Generator().manual_seed(5))
    whole = packed(format, weight, (16, 128))
    parts = QuantisedWeight(format, (3, 64, 256), (16, 128)).value
    for expert in range(3):
        for half in (1, 0):
            parts[expert].half(half).fill(weight[expert].chunk(2)[half])
    assert torch.equal(parts.packed, whole.packed)
    assert torch.equal(parts.scales, whole.scales)


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_filling_some_rows_at_a_time_changes_nothing(format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(300, 256, generator=torch.Generator().manual_seed(6))
    whole = packed(format, weight, (64, 128))
    monkeypatch.setattr(quantised, "FILL_ROWS", 100)  # 64 at a time
    parts = packed(format, weight, (64, 128))
    assert torch.equal(parts.packed, whole.packed)
    assert torch.equal(parts.scales, whole.scales)


def test_zero_blocks_stay_zero() -> None:
    for format in ("fp8", "int4"):
        assert packed(format, torch.zeros(16, 128)).dequantise(torch.float32).abs().max() == 0


def test_int4_refuses_widths_without_whole_groups() -> None:
    with pytest.raises(ValueError, match="multiple of 128"):
        pack(torch.zeros(4, 100), "int4")


@pytest.mark.parametrize("total", [4096, 1024, 9216, 157184, 64, 256, 512])
def test_ranks_cut_between_blocks(total: int) -> None:
    for ranks in (1, 2, 4) if total == 64 else (1, 2, 4, 8):
        assert total // ranks % block_of(total) == 0
    assert block_of(4096) == block_of(1024) == block_of(9216) == 128
