"""RMS norm, alone and with the residual sum."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.expert_sum import ExpertRows, expert_sum_reference
from engine.kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from tests.engine.kernels.device.helpers import assert_near

SHAPES = [(1, 1), (1, 64), (5, 96), (3, 257), (2, 3, 12), (0, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    got, want = rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6)
    assert got.shape == want.shape
    if x.numel():
        assert_near(got, want)


def test_rows_of_a_larger_tensor(dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 6, 16, dtype=dtype)[:, 1:4], torch.randn(16, dtype=dtype)
    assert_near(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_residual_sum_and_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, delta, weight = (*torch.randn(2, *shape, dtype=dtype).unbind(), torch.randn(shape[-1], dtype=dtype))
    before = x.clone()
    total, normed = add_rms_norm(x, delta, weight, 1e-6)
    want_total, want_normed = add_rms_norm_reference(x, delta, weight, 1e-6)
    assert torch.equal(total, want_total)
    assert_near(normed, want_normed)
    assert torch.equal(x, before)


@pytest.mark.parametrize("with_shared", [True, False])
@pytest.mark.parametrize(("num_tokens", "top_k", "dim"), [(1, 8, 96), (5, 3, 257)])
def test_the_sum_of_experts_alone_and_on_the_way(
    num_tokens: int, top_k: int, dim: int, with_shared: bool, dtype: torch.dtype
) -> None:
    shared = torch.randn(num_tokens, dim, dtype=dtype) if with_shared else None
    found = ExpertRows(torch.randn(num_tokens * top_k, dim, dtype=dtype), torch.rand(num_tokens, top_k), shared)
    want = expert_sum_reference(found)
    assert_near(found.summed(torch.empty_like(want)), want)
    x, weight = torch.randn(num_tokens, dim, dtype=dtype), torch.randn(dim, dtype=dtype)
    total, normed = add_rms_norm(x, found, weight, 1e-6)
    want_total, want_normed = add_rms_norm_reference(x, want, weight, 1e-6)
    assert_near(total, want_total)
    assert_near(normed, want_normed)


def test_epsilon_counts_where_rows_are_tiny() -> None:
    x, weight = torch.randn(2, 8) * 1e-4, torch.ones(8)
    assert_near(rms_norm(x, weight, 1e-2), rms_norm_reference(x, weight, 1e-2))
    assert float(rms_norm(x, weight, 1e-2).abs().max()) < 0.01


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="add_rms_norm"):
        add_rms_norm(torch.randn(2, 8), torch.randn(3, 8), torch.randn(8), 1e-6)
