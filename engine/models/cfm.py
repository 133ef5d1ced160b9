"""Flow matching (Lipman et al., 2023): a patch of latents from noise, by Euler steps along a guided velocity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.models.dit import Context, DiT
from engine.models.storage import add_table

# Released grids of selected step counts, in 32nds: finer where the noise is.
GRIDS = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}


def time_grid(steps: int) -> Tensor:
    """Times of the solver before the sway, float32 [steps + 1]."""
    if steps in GRIDS:
        return torch.tensor(GRIDS[steps]).float() / 32
    return torch.linspace(0, 1, steps + 1)


def sway(t: Tensor) -> Tensor:
    """Sway sampling (Chen et al., 2024) with coefficient -1: more of the steps near the noise."""
    return t - (torch.cos(math.pi / 2 * t) - 1 + t)


class FlowMatching(nn.Module):
    """The tensors under `cfm.` and the solver; the state is float32 whatever the model's dtype."""

    def __init__(self, model: DiT, steps: int) -> None:
        super().__init__()
        self.model = model
        self.grid: Tensor
        add_table(self, "grid", lambda: sway(time_grid(steps)))

    def forward(
        self, cond: Tensor, history: Tensor, y0: Tensor, cfg: Tensor, sde: Tensor | None, spread: Tensor
    ) -> Tensor:
        """Solve for B patches at once: float32 [B, P, M].

        Args:
            cond: [B, 1, D_llm].
            history: earlier latents [B, H, M].
            y0: initial noise float32 [B, P, M].
            cfg: guidance of each row, float32 [B]; 0 is the plain conditional model.
            sde: noise of each step float32 [steps, B, P, M], or None where no row has a spread.
            spread: sigma * sqrt(temperature) of each row, float32 [B].
        """
        context = self.doubled_context(cond, history)
        times = self.model.t_embedder(self.grid[:-1])  # [steps, D]
        lengths = self.grid.diff()
        y = y0
        for k, time in enumerate(times):
            y = y + self.guided_velocity(y, time, context, cfg) * lengths[k]
            if sde is not None:
                y = y + spread[:, None, None] * lengths[k].abs().sqrt() * sde[k]
        return y

    def doubled_context(self, cond: Tensor, history: Tensor) -> Context:
        """B rows with their condition, then the same B rows with a zero condition: one batch of 2B."""
        single = self.model.context(cond, history)
        without = self.model.c_embedder(torch.zeros_like(cond))  # its bias survives
        return Context(torch.cat((single.cond, without)), single.history.repeat(2, 1, 1))

    def guided_velocity(self, y: Tensor, time: Tensor, context: Context, cfg: Tensor) -> Tensor:
        """`v_c + cfg * (v_c - v_u)` at the embedded time [D], float32 [B, P, M] (Ho and Salimans, 2022)."""
        conditional, unconditional = self.model.velocity(y.repeat(2, 1, 1), time[None, None], context).float().chunk(2)
        return conditional + cfg[:, None, None] * (conditional - unconditional)
