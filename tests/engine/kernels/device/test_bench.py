"""The cases of the kernel benchmark, at sizes that take no time: what it checks on a GPU holds here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from engine.kernels.bench.__main__ import cases, check
from engine.kernels.bench.case import Case, Sizes, Source
from engine.kernels.router import RoutingRule

TINY = Sizes(
    dim=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    half=4,
    num_experts=16,
    expert_width=32,
    vocab=700,
    block_size=4,
    rule=RoutingRule(4, 4, 2, 2.5),
    decodes=(1, 3),
    prefills=(20,),  # so that each chunk has several blocks
    contexts=(20,),
    num_sets=1,
)
EXACT = 1e-4  # in float32, whatever bound bfloat16 needs


def tiny_cases(group: str) -> list[Case]:
    return list(cases(Source(TINY, torch.empty(0).device, torch.float32), group))


@pytest.mark.parametrize("group", ["tokens", "attention", "experts", "sampling", "step"])
def test_every_variant_is_right(group: str) -> None:
    found = tiny_cases(group)
    assert found
    for case in found:
        case = replace(case, exact=cache(case.exact))  # as long as a variant, and the same for all
        assert case.num_bytes > 0
        for name, run in {**case.variants, "reference": case.reference}.items():
            error = check(case, run)
            assert error is not None, f"{case.kernel} {case.size} {name}"
            assert error <= min(case.bound, EXACT), f"{case.kernel} {case.size} {name}"


def test_bytes_of_the_experts_are_those_of_the_distinct_ones() -> None:
    one = next(case for case in tiny_cases("experts") if case.size.startswith("T=1 "))
    assert one.size == "T=1 distinct=4.0"
    weights = 5 * 3 * 32 * 64  # four routed and the shared one, three matrices each
    assert one.num_bytes == 4 * (weights + 2 * 64)
    assert one.num_flops == 2 * weights
