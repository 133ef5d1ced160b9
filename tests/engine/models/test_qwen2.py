"""The decoder under its memories: slots that do not hear each other, a window that is exact in any chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.qwen2 import Qwen2Model, grouped_attention
from engine.models.qwen2_memory import SlotCache, window_mask
from engine.models.windowed import CHUNK_TOKENS, empty_window, extend_windows, run_windowed
from engine.talker_config import Qwen2Config

CPU = torch.device("cpu")


def make_model(window: int | None = None, num_layers: int = 2) -> Qwen2Model:
    cfg = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_theta=1e6,
        window=window,
    )
    torch.manual_seed(0)
    model = Qwen2Model(cfg).requires_grad_(False)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


def tokens(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, length, 32, generator=generator) for length in lengths]


def test_grouped_attention_is_attention_with_copied_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 6, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, 5, 8, generator=generator)
    mask = torch.rand(2, 1, 3, 5, generator=generator) > 0.3
    mask[..., 0] = True
    copied = (x.repeat_interleave(3, dim=1) for x in (k, v))
    want = F.scaled_dot_product_attention(q.transpose(1, 2), *copied, attn_mask=mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(grouped_attention(q, k, v, mask), want)


def run_alone(model: Qwen2Model, prompt: Tensor, following: Tensor) -> Tensor:
    """Hidden states of the whole sequence in one prefill."""
    whole = torch.cat((prompt, following), dim=1)
    cache = SlotCache(model.cfg, 1, whole.shape[1], torch.float32, CPU)
    return model(whole, cache.prefill(0, whole.shape[1]))


def test_decoding_slots_of_different_lengths_equals_each_alone() -> None:
    model = make_model()
    prompts, following = tokens(7, 2, 11), tokens(4, 4, 4)
    cache = SlotCache(model.cfg, 4, 16, torch.float32, CPU)
    for slot, prompt in enumerate(prompts):
        got = model(prompt, cache.prefill(slot, prompt.shape[1]))
        torch.testing.assert_close(got, run_alone(model, prompt, prompt[:, :0]))
    for step in range(4):
        positions = torch.tensor([prompt.shape[1] + step for prompt in prompts])
        got = model(torch.cat([x[:, step : step + 1] for x in following]), cache.decode(positions))
        for row, (prompt, x) in enumerate(zip(prompts, following, strict=True)):
            want = run_alone(model, prompt, x[:, : step + 1])[:, -1]
            torch.testing.assert_close(got[row], want, rtol=1e-4, atol=1e-5)


def test_a_slot_is_used_again_without_a_trace() -> None:
    model = make_model()
    long, short, following = tokens(12, 3, 1)
    cache = SlotCache(model.cfg, 1, 16, torch.float32, CPU)
    model(long, cache.prefill(0, 12))
    model(short, cache.prefill(0, 3))
    got = model(following, cache.decode(torch.tensor([3])))
    torch.testing.assert_close(got[:, 0], run_alone(model, short, following)[:, -1], rtol=1e-4, atol=1e-5)
    # The test can fail: a mask one position too wide would see the first sequence.
    seen = model(following, cache.decode(torch.tensor([4])))
    assert float((seen[:, 0] - got[:, 0]).abs().max()) > 0.01


def test_window_mask_by_hand() -> None:
    """Window 2: each query sees itself and one key before it; keys before the start do not exist."""
    got = window_mask(torch.tensor([[3, 4], [0, 1]]), torch.tensor([[2, 3, 4], [-1, 0, 1]]), 2)
    assert got.tolist() == [[[[True, True, False], [False, True, True]]], [[[False, True, False], [False, True, True]]]]


@pytest.mark.parametrize("sizes", [(30,), (1,) * 30, (7, 1, 15, 7), (4, 4, 22)])
def test_window_in_any_chunks_is_the_whole(sizes: tuple[int, ...]) -> None:
    model = make_model(window=6)
    (x,) = tokens(30)
    states, parts = [empty_window(model)], []
    for chunk in torch.split(x, list(sizes), dim=1):
        hidden, states = extend_windows(model, chunk, states)
        parts.append(hidden)
    assert states[0].num_seen == 30
    torch.testing.assert_close(torch.cat(parts, dim=1), dense(model, x, window=6), rtol=1e-4, atol=1e-5)


def dense(model: Qwen2Model, x: Tensor, window: int) -> Tensor:
    """The same model with a mask over the whole sequence."""

    class Whole:
        positions = torch.arange(x.shape[1])[None]
        mask = window_mask(positions, positions, window)

        def extend(self, _layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return k, v

    return model(x, Whole())


def test_the_window_ends_where_it_should() -> None:
    """One layer, window 6: a change of token t moves tokens t to t + 5 and no other."""
    model = make_model(window=6, num_layers=1)
    (x,) = tokens(20)
    changed = x.clone()
    changed[:, 8] += 1
    moved = (run_windowed(model, x) - run_windowed(model, changed)).abs().amax(dim=-1)[0] > 1e-6
    assert moved.nonzero()[:, 0].tolist() == list(range(8, 14))


def test_a_long_sequence_runs_in_chunks() -> None:
    model = make_model(window=5)
    (x,) = tokens(CHUNK_TOKENS + 40)
    batch = torch.cat((x, x.flip(1)))
    torch.testing.assert_close(run_windowed(model, batch)[:1], dense(model, x, window=5), rtol=1e-4, atol=1e-5)


def test_streams_at_different_positions_share_a_call() -> None:
    model = make_model(window=6)
    a, b = tokens(14, 6)
    _, first = extend_windows(model, a[:, :8], [empty_window(model)])
    got, states = extend_windows(model, torch.cat((a[:, 8:], b)), [*first, empty_window(model)])
    torch.testing.assert_close(got[0], run_windowed(model, a)[0, 8:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1], run_windowed(model, b)[0], rtol=1e-4, atol=1e-5)
    assert [state.num_seen for state in states] == [14, 6]


def test_fewer_layers_are_the_first_ones() -> None:
    whole, part = make_model(window=6), Qwen2Model(make_model(window=6).cfg, num_layers=1)
    part.load_state_dict({n: x for n, x in whole.state_dict().items() if ".1." not in n})
    (x,) = tokens(9)
    del whole.layers[1]
    assert torch.equal(run_windowed(part, x), run_windowed(whole, x))
