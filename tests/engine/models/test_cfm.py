"""The solver: grids, guidance by its formula, and rows that do not hear each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.kernels.pair_rope import rotate_pairs
from engine.models.cfm import GRIDS, FlowMatching, sway, time_grid
from engine.models.dit import TIME_SCALE, DiT, TimestepEmbedder
from engine.talker_config import DiTConfig
from tests.engine.speech import load_tensors, load_tiny, relative_error


@pytest.fixture(scope="module")
def flow() -> FlowMatching:
    torch.manual_seed(0)
    model = DiT(DiTConfig(hidden_size=32, depth=2, num_heads=4, in_channels=64), 24, history_size=6, patch_size=4)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return FlowMatching(model, steps=5).requires_grad_(False)


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Condition, history, initial noise and noise of the steps."""
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(rows, 1, 24, generator=generator),
        torch.randn(rows, 6, 64, generator=generator),
        torch.randn(rows, 4, 64, generator=generator),
        torch.randn(5, rows, 4, 64, generator=generator),
    )


@pytest.mark.parametrize("steps", [*GRIDS, 8, 3])
def test_grids_run_from_noise_to_data(steps: int) -> None:
    grid = sway(time_grid(steps))
    assert len(grid) == steps + 1
    assert float(grid[0]) == pytest.approx(0, abs=1e-6)
    assert float(grid[-1]) == pytest.approx(1, abs=1e-6)
    assert bool((grid.diff() > 0).all())


def test_sway_by_hand() -> None:
    """t' = 1 - cos(pi t / 2); of the ten-step grid, step 5 stands at 12 / 32."""
    assert float(sway(time_grid(10))[5]) == pytest.approx(1 - math.cos(math.pi / 2 * 12 / 32), abs=1e-6)
    assert sway(time_grid(4)).tolist() == pytest.approx([1 - math.cos(math.pi / 8 * k) for k in range(5)], abs=1e-6)


def test_guidance_extrapolates_away_from_the_zero_condition(flow: FlowMatching) -> None:
    cond, history, y, _ = inputs(2)
    time = flow.model.t_embedder(torch.tensor([0.3]))[0]
    t = torch.full((2,), 0.3)
    conditional = flow.model(y, t, cond, history)
    unconditional = flow.model(y, t, torch.zeros_like(cond), history)
    got = flow.guided_velocity(y, time, flow.doubled_context(cond, history), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(got[0], conditional[0])  # strength 0 is the conditional model
    torch.testing.assert_close(got[1], 3 * conditional[1] - 2 * unconditional[1])
    assert float((conditional - unconditional).abs().max()) > 0.01


def test_rows_are_solved_as_if_alone_whatever_their_settings(flow: FlowMatching) -> None:
    cond, history, y0, sde = inputs(3)
    cfg, spread = torch.tensor([2.0, 0.0, 4.5]), torch.tensor([0.0, 0.0, 0.3 * math.sqrt(2.5)])
    together = flow(cond, history, y0, cfg, sde, spread)
    for row in range(3):
        one = slice(row, row + 1)
        alone = flow(cond[one], history[one], y0[one], cfg[one], sde[:, one], spread[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


def test_without_spread_the_noise_of_the_steps_is_not_used(flow: FlowMatching) -> None:
    cond, history, y0, sde = inputs(1)
    cfg, none = torch.tensor([2.0]), torch.zeros(1)
    assert torch.equal(flow(cond, history, y0, cfg, sde, none), flow(cond, history, y0, cfg, None, none))
    assert not torch.equal(flow(cond, history, y0, cfg, sde, none + 1), flow(cond, history, y0, cfg, None, none))


def test_a_constant_velocity_is_integrated_exactly(flow: FlowMatching, monkeypatch: pytest.MonkeyPatch) -> None:
    """Velocity 2 from t = 0 to 1 adds 2; noise 1 at every step adds spread * the sum of sqrt(dt)."""
    monkeypatch.setattr(flow, "guided_velocity", lambda y, *_: torch.full_like(y, 2.0))
    cond, history, y0, sde = inputs(1)
    got = flow(cond, history, y0, torch.zeros(1), torch.ones_like(sde), torch.tensor([0.5]))
    added = 2.0 + 0.5 * float(flow.grid.diff().sqrt().sum())
    torch.testing.assert_close(got, y0 + added)


def test_history_matters_up_to_its_first_row(flow: FlowMatching) -> None:
    """Zeros in the history are latents like any other: nothing is masked."""
    cond, history, y, _ = inputs(1)
    t = torch.tensor([0.5])
    moved = history.clone()
    moved[:, 0] = 0
    assert float((flow.model(y, t, cond, history) - flow.model(y, t, cond, moved)).abs().max()) > 1e-3


def test_rotation_turns_neighbouring_pairs() -> None:
    """A quarter turn of the first pair, none of the second: (1, 2, 3, 4) -> (-2, 1, 3, 4)."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert rotate_pairs(x, cos, sin).flatten().tolist() == [-2.0, 1.0, 3.0, 4.0]


def test_time_features_by_hand() -> None:
    """Frequencies fall from 1 to 1 / 10000 over 128; sines stand before cosines."""
    features = TimestepEmbedder(8).features(TIME_SCALE * torch.tensor([0.25]))[0]
    for j in (0, 1, 127):
        angle = 250 * 10000 ** (-j / 127)
        assert float(features[j]) == pytest.approx(math.sin(angle), abs=2e-5)
        assert float(features[128 + j]) == pytest.approx(math.cos(angle), abs=2e-5)


def test_bfloat16_keeps_the_solver_in_float32() -> None:
    """One patch of the tiny talker: close to float32, and not rounded to bfloat16."""
    stored = load_tensors("e2e_talker", "expected")
    noise = load_tensors("e2e_talker", "inputs")["plain/noise_y0"][0]
    hidden, history = stored["plain/llm_hidden"][:, :1], stored["plain/history_first"]
    cfm = load_tiny(torch.bfloat16).talker.cfm
    got = cfm(hidden.bfloat16(), history, noise, torch.tensor([2.0]), None, torch.zeros(1))
    assert got.dtype == torch.float32
    assert not torch.equal(got, got.bfloat16().float())
    assert relative_error(got, stored["plain/latents"][:, :4]) < 5e-2
