"""Greedy and seeded draws against the sorted definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels.argmax import CHUNK, argmax
from engine.kernels.gumbel import gumbel_draw, gumbel_draw_reference
from engine.kernels.sampling import DrawParams, draw, draw_key_reference, draw_reference


def params(count: int, **options: Any) -> DrawParams:
    """The same options for every row, with seeds and counts of their own."""
    chosen = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    return DrawParams(
        torch.full((count,), float(chosen["temperature"])),
        torch.full((count,), chosen["top_k"], dtype=torch.int32),
        torch.full((count,), float(chosen["top_p"])),
        torch.full((count,), float(chosen["min_p"])),
        torch.randint(-(2**62), 2**62, (count,)),
        torch.randint(0, 2000, (count,)),
    )


def sampled(logits: Tensor, p: DrawParams) -> list[int]:
    return draw(logits, p).tolist()


@pytest.mark.parametrize("width", [1, 5, CHUNK, CHUNK + 1, 3 * CHUNK - 7])
def test_argmax(width: int, dtype: torch.dtype) -> None:
    logits = torch.randn(3, width).to(dtype)
    values, ids = argmax(logits)
    assert torch.equal(values, logits.float().max(dim=1).values)
    assert torch.equal(logits.float().gather(1, ids[:, None])[:, 0], values)


def test_argmax_of_equal_values_is_the_first() -> None:
    logits = torch.zeros(3, 2 * CHUNK)
    logits[1, 50], logits[1, CHUNK + 50] = 2.0, 2.0
    logits[2, CHUNK + 3 :] = 1.0
    assert argmax(logits)[1].tolist() == [0, 50, CHUNK + 3]


def test_argmax_of_a_share_of_the_columns() -> None:
    logits = torch.randn(4, 100)
    assert argmax(logits[:, 40:90])[1].tolist() == logits[:, 40:90].argmax(dim=1).tolist()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 10**6},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3},
    {"temperature": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draw_is_the_sorted_definition(options: dict[str, Any]) -> None:
    logits = 2 * torch.randn(4, 300)
    logits[2:] = logits[2:].round(decimals=0)  # many equal logits, 0.0 and -0.0 among them
    logits[1, ::3] = float("-inf")
    p = params(4, **options)
    assert sampled(logits, p) == draw_reference(logits, p).tolist()


def test_rows_of_a_batch_have_their_own_options() -> None:
    """And a row's draw is the one it has alone."""
    logits = torch.randn(3, 4100)
    p = params(3)
    p.temperature.copy_(torch.tensor([0.0, 0.5, 2.0]))
    p.top_k.copy_(torch.tensor([3, 0, 40], dtype=torch.int32))
    p.top_p.copy_(torch.tensor([0.5, 0.7, 1.0]))
    together = sampled(logits, p)
    assert together == draw_reference(logits, p).tolist()
    assert together[2:] == sampled(logits[2:], DrawParams(*(x[2:] for x in p.tensors)))


def test_filters_that_are_left_out_cost_no_search_and_change_nothing() -> None:
    logits, p = torch.randn(3, 200), params(3)
    assert draw(logits, p, top_k=False, top_p=False).tolist() == sampled(logits, p)


def test_logits_that_differ_in_their_last_bits() -> None:
    """All three digits of the search matter: the values share their leading 22 bits."""
    logits = torch.full((1, 64), 1.0) + torch.arange(64) * 2.0**-23
    p = params(1)
    for index in range(6):
        p.index.fill_(index)
        assert sampled(logits, p) == draw_reference(logits, p).tolist()


@pytest.mark.parametrize("width", [60, 9000])
def test_gumbel_draws(width: int) -> None:
    """Greedy rows beside drawn ones, and every drawn one as alone."""
    logits = 3 * torch.randn(6, width)
    temperature = torch.tensor([0.0, 1.0, 0.3, 2.0, 0.0, 1.0])
    seed, index = torch.tensor([0, 1, -5, 2**62, 4, 1]), torch.tensor([0, 0, 3, 900, 2, 1])
    got = gumbel_draw(logits, temperature, seed, index)
    want = gumbel_draw_reference(logits, temperature, draw_key_reference(seed, index))
    assert torch.equal(got, want)
    assert got[[0, 4]].tolist() == logits[[0, 4]].argmax(dim=-1).tolist()
    assert gumbel_draw(logits[3:4], temperature[3:4], seed[3:4], index[3:4]).tolist() == got[3:4].tolist()


def test_wrong_parameters_are_refused() -> None:
    p = params(2)
    with pytest.raises(ValueError, match="parameters"):
        draw(torch.randn(3, 10), p)
    with pytest.raises(ValueError, match="float32"):
        draw(torch.randn(2, 10).double(), p)
