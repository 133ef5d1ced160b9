"""Every kernel at the released model's sizes with two ranks, on tensors that have no storage."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from engine.kernels.argmax import argmax
from engine.kernels.decode_attention import decode_attention
from engine.kernels.embed import embed
from engine.kernels.expert_sum import ExpertRows
from engine.kernels.fused_moe import SharedExpert, fused_moe
from engine.kernels.gate import gate_parts
from engine.kernels.gumbel import Kept, gumbel_draw
from engine.kernels.heads_attention import heads_attention
from engine.kernels.kv_store import kv_store
from engine.kernels.linear import linear
from engine.kernels.pair_rope import rotate_pairs
from engine.kernels.paths import VARIANTS, current, taking
from engine.kernels.peer_sum import PeerBuffer, peer_gather, peer_sum, peer_sum_add_norm
from engine.kernels.prefill_attention import prefill_attention
from engine.kernels.push_sum import Mailbox, push_sum_add_norm, takes_push
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope
from engine.kernels.rms_norm import add_rms_norm, rms_norm
from engine.kernels.rope import apply_rotary
from engine.kernels.rope_table import rope_table
from engine.kernels.router import RoutingRule, route
from engine.kernels.sampling import DrawParams, draw
from engine.kernels.stage_decode import Column, Places, Staged, stage_decode
from engine.quantised import Format, Quantised, QuantisedWeight

D, C, H, K, HALF = 4096, 128, 16, 2, 32
E, TOP_K, F, V, BLOCK = 256, 8, 512, 157184, 16
RULE = RoutingRule(TOP_K, 8, 4, 2.5)
STEP_PATHS = ("lean but programmatic", "lean")
HEADS_PATHS = ("heads", "lean but keys", "lean")
DECODES, PREFILLS = (1, 8, 32, 64), (2048, 8192)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int64)


def cache(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return empty(4000, BLOCK, K, C, dtype=dtype), empty(4000, BLOCK, K, C, dtype=dtype)


def norms(num_tokens: int, dtype: torch.dtype) -> None:
    x, weight = empty(num_tokens, D, dtype=dtype), empty(D, dtype=dtype)
    rms_norm(x, weight, 1e-6)
    add_rms_norm(x, x, weight, 1e-6)


def heads(num_tokens: int, dtype: torch.dtype) -> None:
    q, k, v = empty(num_tokens, H + 2 * K, C, dtype=dtype).split((H, K, K), dim=1)
    weights = HeadNorms(empty(C, dtype=dtype), empty(C, dtype=dtype), 1e-6)
    qk_norm_rope(q, k, v, weights, tables(num_tokens, dtype), cache(dtype), ints(num_tokens))


def tables(num_tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return empty(num_tokens, HALF, dtype=dtype), empty(num_tokens, HALF, dtype=dtype)


def rotate_and_store(num_tokens: int, dtype: torch.dtype) -> None:
    q, k, v = empty(num_tokens, H + 2 * K, C, dtype=dtype).split((H, K, K), dim=1)
    heads(num_tokens, dtype)
    kv_store(k, v, *cache(dtype), ints(num_tokens))
    apply_rotary(q, *tables(num_tokens, dtype))


def ends(num_tokens: int, dtype: torch.dtype) -> None:
    """What a step does in front of its layers."""
    embed(ints(num_tokens), empty(V // 2, D, dtype=dtype), V // 2, V)
    rope_table(ints(3, num_tokens), ints(HALF), empty(HALF), dtype)


def rotate_flow(num_rows: int, dtype: torch.dtype) -> None:
    """The talker's flow model: 37 tokens, q and k of 16 heads side by side in front of v."""
    packed = empty(num_rows, 37, 3, 16, 64, dtype=dtype)[:, :, :2].flatten(2, 3)
    rotate_pairs(packed, empty(37, 32), empty(37, 32))


def decode(num_tokens: int, dtype: torch.dtype) -> None:
    q = empty(num_tokens, H, C, dtype=dtype)
    decode_attention(q, *cache(dtype), ints(num_tokens, 64), ints(num_tokens), torch.empty_like(q))


def prefill(num_tokens: int, dtype: torch.dtype) -> None:
    q = empty(num_tokens, H, C, dtype=dtype)
    prefill_attention(q, *cache(dtype), ints(2, 256), ints(2), ints(3), num_tokens // 2, torch.empty_like(q))


def experts(num_tokens: int, dtype: torch.dtype) -> None:
    x, weight, bias = empty(num_tokens, D, dtype=dtype), empty(E, D, dtype=dtype), empty(E, dtype=dtype)
    ids, weights = route(gate_parts(x, weight), bias, RULE)
    shared = SharedExpert(empty(2 * F, D, dtype=dtype), empty(D, F, dtype=dtype))
    fused_moe(x, empty(E, 2 * F, D, dtype=dtype), empty(E, D, F, dtype=dtype), ids, weights, shared)


def packed(format: Format, *shape: int) -> Quantised:
    with torch.device("meta"):
        return QuantisedWeight(format, shape, (128, 128)).value


def packed_experts(num_tokens: int, dtype: torch.dtype, format: Format) -> None:
    x, ids, weights = empty(num_tokens, D, dtype=dtype), ints(num_tokens, TOP_K), empty(num_tokens, TOP_K)
    shared = SharedExpert(packed("fp8", 2 * F, D), packed("fp8", D, F))
    with taking(replace(current(), split_fp8=True)):
        fused_moe(x, packed(format, E, 2 * F, D), packed(format, E, D, F), ids, weights, shared)


def packed_linear(num_tokens: int, dtype: torch.dtype) -> None:
    linear(empty(num_tokens, D, dtype=dtype), packed("fp8", (H + 2 * K) * C, D))
    linear(empty(num_tokens, H * C, dtype=dtype), packed("fp8", D, H * C))


def packed_step(num_tokens: int, dtype: torch.dtype, path: str) -> None:
    """The products and experts of a layer with packed weights on one of the newer ways."""
    with taking(VARIANTS[path]):
        packed_linear(num_tokens, dtype)
        packed_experts(num_tokens, dtype, "fp8")


def sampling(num_rows: int) -> None:
    argmax(empty(num_rows, V // 2, dtype=torch.bfloat16))
    floats, longs = (empty(num_rows) for _ in range(3)), (ints(num_rows) for _ in range(2))
    temperature, top_p, min_p = floats
    params = DrawParams(temperature, empty(num_rows, dtype=torch.int32), top_p, min_p, *longs)
    draw(empty(num_rows, V), params)


def plain_draw(num_rows: int) -> None:
    kept = Kept(ints(64), ints(num_rows, Column.COUNT)[:, Column.KEEP])
    gumbel_draw(empty(num_rows, V), empty(num_rows), ints(num_rows), ints(num_rows), None, kept)


def stage(num_rows: int) -> None:
    device = torch.device("meta")
    stage_decode(
        ints(num_rows, Column.COUNT), Places.empty(64, 512, device), BLOCK, Staged.empty(num_rows, 512, device)
    )


def peers(num_tokens: int, dtype: torch.dtype) -> None:
    """Sums and gathers of the second of two ranks."""
    buffer = PeerBuffer(ints(2), 1, 2, 0, 4096, empty(64, dtype=torch.int32))
    x = empty(num_tokens, D, dtype=dtype)
    peer_sum_add_norm(buffer, x, empty(D, dtype=dtype), 1e-6)
    if takes_push(x, 64):
        box = Mailbox(ints(2), 1, 2, 4096, empty(64, dtype=torch.int32))
        push_sum_add_norm(box, x, x, empty(D, dtype=dtype), 1e-6)
    peer_sum(buffer, x)
    peer_gather(buffer, empty(num_tokens, V // 2, dtype=dtype))


def late_sums(num_tokens: int, dtype: torch.dtype) -> None:
    """The weighted sums of experts where they are added to the residual stream."""
    x, weight = empty(num_tokens, D, dtype=dtype), empty(D, dtype=dtype)
    found = ExpertRows(empty(num_tokens * TOP_K, D, dtype=dtype), empty(num_tokens, TOP_K), x)
    add_rms_norm(x, found, weight, 1e-6)
    push_sum_add_norm(Mailbox(ints(2), 1, 2, 4096, empty(64, dtype=torch.int32)), found, x, weight, 1e-6)


def attend(num_tokens: int, dtype: torch.dtype) -> None:
    """From the packed product to what the heads attend to, by the current way."""
    if not current().heads_in_attention:
        heads(num_tokens, dtype)
        decode(num_tokens, dtype)
        return
    q, k, v = empty(num_tokens, H + 2 * K, C, dtype=dtype).split((H, K, K), dim=1)
    weights = HeadNorms(empty(C, dtype=dtype), empty(C, dtype=dtype), 1e-6)
    where = ints(num_tokens), ints(num_tokens, 64), ints(num_tokens)
    heads_attention(q, k, v, weights, tables(num_tokens, dtype), cache(dtype), *where)


def attend_by(num_tokens: int, dtype: torch.dtype, path: str) -> None:
    with taking(VARIANTS[path]):
        attend(num_tokens, dtype)


def step(num_tokens: int, dtype: torch.dtype, path: str) -> None:
    """The kernels of a decode step's layer on one of the newer ways, the second of two ranks."""
    with taking(VARIANTS[path]):
        linear(empty(num_tokens, D, dtype=dtype), empty((H + 2 * K) * C, D, dtype=dtype))
        attend(num_tokens, dtype)
        linear(empty(num_tokens, H * C, dtype=dtype), empty(D, H * C, dtype=dtype))
        experts(num_tokens, dtype)
        peers(num_tokens, dtype)
        norms(num_tokens, dtype)


def launches(dtype: torch.dtype) -> dict[str, partial[None]]:
    """Name -> a call that launches kernels at one size."""
    found = {"norms": partial(norms, 32, dtype), "rotate_and_store": partial(rotate_and_store, 32, dtype)}
    found["rotate_flow 2"] = partial(rotate_flow, 2, dtype)
    found |= {f"experts {n}": partial(experts, n, dtype) for n in (*DECODES, *PREFILLS)}
    for format in ("fp8", "int4"):
        found |= {f"experts-{format} {n}": partial(packed_experts, n, dtype, format) for n in (1, 2, 32, 64, 200, 8192)}
    found |= {f"linear-fp8 {n}": partial(packed_linear, n, dtype) for n in (8, 64)}
    found |= {f"decode {n}": partial(decode, n, dtype) for n in DECODES}
    found |= {f"prefill {n}": partial(prefill, n, dtype) for n in PREFILLS}
    found |= {f"{path} {n}": partial(attend_by, n, dtype, path) for n in (1, 32) for path in HEADS_PATHS}
    found["ends 8"] = partial(ends, 8, dtype)
    found |= {"peers 8": partial(peers, 8, dtype), "stage 8": partial(stage, 8)}
    found["late sums 32"] = partial(late_sums, 32, dtype)
    found |= {f"step {n} {path}": partial(step, n, dtype, path) for n in (1, 4) for path in STEP_PATHS}
    found |= {f"packed step {n} {path}": partial(packed_step, n, dtype, path) for n in (1, 2) for path in STEP_PATHS}
    return found | {"sampling 8": partial(sampling, 8), "plain draw 8": partial(plain_draw, 8)}
