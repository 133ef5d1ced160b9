"""The newer ways of a decode step inside captured graphs, replayed many times on changing inputs.

What the interpreter cannot show: that the last program sees what the others wrote, that counters begin every replay
at zero, and that a kernel which starts early reads nothing too soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.kernels.bench.case import RELEASED_RULE, Sizes, Source
from engine.kernels.bench.step import Layer
from engine.kernels.decode_attention import decode_attention
from engine.kernels.fused_moe import SharedExpert, fused_moe, fused_moe_reference
from engine.kernels.gate import gate_logits_reference, gate_parts
from engine.kernels.heads_attention import heads_attention
from engine.kernels.linear import linear
from engine.kernels.paths import VARIANTS, Paths, taking
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope
from engine.kernels.router import route, route_reference
from engine.kernels.thin import thin_reference
from tests.engine.kernels.device.helpers import assert_near, assert_same_choice

pytestmark = pytest.mark.gpu

BF16 = torch.bfloat16
REPLAYS = 100


@pytest.fixture(autouse=True)
def _nothing_in_between(_no_lucky_memory: None) -> Iterator[None]:
    """New tensors are not filled here: the filling would be a launch between two that are to overlap."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


def captured(path: str | Paths, run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """A graph of `run` by a path: -> its replay, and where its outputs lie."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with taking(VARIANTS[path] if isinstance(path, str) else path):
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            found = run()
    return graph.replay, found


@pytest.mark.parametrize("path", ["join", "lean"])
def test_joined_attention(path: str) -> None:
    """Lengths from nothing to all, other ones at each replay: other shares are empty, other programs are last."""
    q = torch.randn(5, 16, 128, dtype=BF16)
    k_cache, v_cache = torch.randn(2, 700, 16, 2, 128, dtype=BF16).unbind()
    tables, lens = torch.randperm(700)[:640].view(5, 128), torch.ones(5, dtype=torch.int64)

    def run() -> tuple[Tensor, ...]:
        out = torch.empty_like(q)
        decode_attention(q, k_cache, v_cache, tables, lens, out)
        return (out,)

    replay, (out,) = captured(path, run)
    for i in range(REPLAYS):
        lens.copy_(torch.randint(0, 2049 if i % 2 else 200, (5,)))
        lens[i % 5] = 0
        q.normal_()
        replay()
        (want,) = run()
        assert_near(out, want)
        assert not out[i % 5].any()


@pytest.mark.parametrize("path", ["heads", "lean but keys", "lean"])
def test_attention_over_raw_heads(path: str) -> None:
    """Behind the product that feeds it, at growing lengths: every replay stores its own token and reads the others'.

    The last row repeats the first and stores nothing, as rows that pad a batch do. The two launches run beside it on
    caches of their own, by the plain way.
    """
    num_rows, heads = 6, (16, 2, 2)
    x, weight = torch.randn(num_rows, 512, dtype=BF16), torch.randn(20 * 128, 512, dtype=BF16) / 23
    norms = HeadNorms(torch.rand(128, dtype=BF16), torch.rand(128, dtype=BF16), 1e-6)
    angles = torch.randn(2, num_rows, 32, dtype=BF16)
    angles[:, 5] = angles[:, 0]
    rotation = angles[0], angles[1]
    ours = torch.randn(2, 700, 16, 2, 128, dtype=BF16).unbind()
    theirs = tuple(cache.clone() for cache in ours)
    tables = torch.randperm(700)[:640].view(5, 128)
    tables = torch.cat((tables, tables[:1]))
    lens, slots = torch.ones(num_rows, dtype=torch.int64), torch.full((num_rows,), -1)

    def raw() -> tuple[Tensor, ...]:
        return linear(x, weight).view(num_rows, 20, 128).split(heads, dim=1)

    def run() -> tuple[Tensor, ...]:
        return (heads_attention(*raw(), norms, rotation, ours, slots, tables, lens),)

    replay, (out,) = captured(path, run)
    grown = torch.randint(1, 200, (5,))
    grown[1], grown[2] = 250, 2048 - REPLAYS  # from one part to two, and many parts
    for i in range(REPLAYS):
        x.normal_()
        x[5], lens[:5], lens[5] = x[0], grown + i, grown[0] + i
        lens[3] *= i % 2  # now and then nobody's
        newest = (lens - 1).clamp(min=0)
        slots.copy_(tables.gather(1, (newest // 16)[:, None])[:, 0] * 16 + newest % 16)
        slots[3:4].masked_fill_(lens[3:4] == 0, -1)
        slots[5] = -1
        replay()
        q = qk_norm_rope(*raw(), norms, rotation, theirs, slots)
        want = torch.empty_like(q)
        decode_attention(q, *theirs, tables, lens, want)
        assert_near(out, want)
        for got, stored in zip(ours, theirs, strict=True):
            assert_near(got, stored)
        assert_near(out[5], out[0])
        assert out[3].any() == bool(i % 2)


@pytest.mark.parametrize("num_tokens", [1, 8])
def test_gate_and_choice(num_tokens: int) -> None:
    x, weight = torch.randn(num_tokens, 4096, dtype=BF16), torch.randn(256, 4096, dtype=BF16) / 64
    bias = torch.randn(256) / 10
    replay, choice = captured("lean", lambda: route(gate_parts(x, weight), bias, RELEASED_RULE))
    for _ in range(REPLAYS):
        x.normal_()
        replay()
        assert_same_choice(choice, route_reference(gate_logits_reference(x, weight), bias, RELEASED_RULE))


@pytest.mark.parametrize("path", ["thin", "lean"])
@pytest.mark.parametrize(("num_rows", "n", "k"), [(1, 2560, 4096), (2, 4096, 2048)])
def test_thin_products(path: str, num_rows: int, n: int, k: int) -> None:
    x, weight = torch.randn(num_rows, k, dtype=BF16), torch.randn(n, k, dtype=BF16) / k**0.5
    replay, (y,) = captured(path, lambda: (linear(x, weight),))
    for _ in range(10):
        x.normal_()
        replay()
        assert_near(y, thin_reference(x, weight))


@pytest.mark.parametrize("path", ["single", "lean"])
def test_experts_of_one_token(path: str) -> None:
    """The choice is made by the kernel just before: with early starts the second product must not read the last one."""
    x, gate, bias = torch.randn(1, 4096, dtype=BF16), torch.randn(64, 4096, dtype=BF16) / 64, torch.zeros(64)
    w13, w2 = torch.randn(64, 1024, 4096, dtype=BF16) / 64, torch.randn(64, 4096, 512, dtype=BF16) / 22
    shared = SharedExpert(torch.randn(1024, 4096, dtype=BF16) / 64, torch.randn(4096, 512, dtype=BF16) / 22)

    def run() -> tuple[Tensor, ...]:
        ids, weights = route(gate_parts(x, gate), bias, RELEASED_RULE)
        return ids, weights, fused_moe(x, w13, w2, ids, weights, shared)

    replay, (ids, weights, out) = captured(path, run)
    for _ in range(REPLAYS):
        x.normal_()
        replay()
        assert_near(out, fused_moe_reference(x, w13, w2, ids, weights, shared))


@pytest.mark.parametrize("path", ["lean but heads", "lean but keys", "lean"])
@pytest.mark.parametrize("num_tokens", [1, 3, 8])
def test_early_starts_change_no_bit(num_tokens: int, path: str) -> None:
    """Eight layers in a row, each feeding the next: the same kernels with and without overlap, bit for bit."""
    sizes = Sizes(num_experts=64, num_sets=1)
    source = Source(sizes, torch.device("cuda"), BF16)
    layers = [Layer(source, num_tokens, 300) for _ in range(8)]
    x = torch.randn(num_tokens, sizes.dim, dtype=BF16)

    def run() -> tuple[Tensor, ...]:
        at, seen = x, []
        for layer in layers:
            at, normed = layer.step(at)
            seen.append(normed)
        return at, *seen

    late, apart = captured(replace(VARIANTS[path], programmatic=False), run)
    early, overlapped = captured(VARIANTS[path], run)
    for _ in range(2 * REPLAYS):
        x.normal_()
        late()
        torch.cuda.synchronize()
        early()
        torch.cuda.synchronize()
        for got, want in zip(overlapped, apart, strict=True):
            assert torch.equal(got, want)
    assert bool(torch.isfinite(overlapped[0]).all())
