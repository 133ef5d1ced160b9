"""Kernels inside a CUDA graph: replayed on new values in the same memory, they give what they give outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.kernels.decode_attention import decode_attention
from engine.kernels.fused_moe import SharedExpert, fused_moe
from engine.kernels.gate import gate_parts
from engine.kernels.router import RoutingRule, route
from engine.kernels.sampling import DrawParams, draw
from tests.engine.kernels.device.helpers import assert_near

pytestmark = pytest.mark.gpu

BF16 = torch.bfloat16


def replayed(run: Callable[[], Tensor], change: Callable[[], object]) -> tuple[Tensor, Tensor]:
    """Capture `run`, change its inputs, replay: -> the graph's output, and that of a plain call on the same inputs."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    change()
    graph.replay()
    torch.cuda.synchronize()
    return out.clone(), run()


@pytest.mark.parametrize("num_tokens", [1, 8, 64])
def test_experts(num_tokens: int) -> None:
    x, gate, bias = torch.randn(num_tokens, 256, dtype=BF16), torch.randn(32, 256, dtype=BF16), torch.randn(32)
    w13, w2 = torch.randn(32, 128, 256, dtype=BF16) / 16, torch.randn(32, 256, 64, dtype=BF16) / 8
    shared = SharedExpert(torch.randn(128, 256, dtype=BF16) / 16, torch.randn(256, 64, dtype=BF16) / 8)

    def run() -> Tensor:
        ids, weights = route(gate_parts(x, gate), bias, RoutingRule(4, 4, 2, 2.5))
        return fused_moe(x, w13, w2, ids, weights, shared)

    assert_near(*replayed(run, lambda: x.normal_()))


def test_decode_attention_with_longer_sequences_than_at_capture() -> None:
    q = torch.randn(4, 16, 128, dtype=BF16)
    k_cache, v_cache = torch.randn(2, 300, 16, 2, 128, dtype=BF16).unbind()
    tables, lens = torch.randperm(300)[:256].view(4, 64), torch.tensor([1, 2, 3, 0])

    def run() -> Tensor:
        out = torch.empty_like(q)
        decode_attention(q, k_cache, v_cache, tables, lens, out)
        return out

    assert_near(*replayed(run, lambda: lens.copy_(torch.tensor([900, 17, 1024, 5]))))


def test_draws() -> None:
    logits, ones = torch.randn(6, 5000), torch.ones(6)
    params = DrawParams(ones, ones.int() * 50, ones * 0.9, ones * 0, torch.arange(6), torch.zeros(6, dtype=torch.int64))

    def change() -> None:
        logits.normal_()
        params.index.add_(1)

    got, want = replayed(lambda: draw(logits, params), change)
    assert torch.equal(got, want)
