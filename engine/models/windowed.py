"""A Qwen2 backbone with a sliding window over a whole sequence, in chunks that carry the window on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.models.qwen2 import Qwen2Model
from engine.models.qwen2_memory import WindowBatch, WindowMemory, WindowState

CHUNK_TOKENS = 512  # bounds the attention scores of long clips; one chunk or many, the numbers are the same


def empty_window(model: Qwen2Model) -> WindowState:
    """What a sequence of this backbone starts from."""
    weight = model.norm.weight
    return WindowState.empty(model.cfg, len(model.layers), weight.dtype, weight.device)


def run_windowed(model: Qwen2Model, x: Tensor) -> Tensor:
    """Whole sequences [B, S, D] -> [B, S, D]."""
    states = [empty_window(model)] * len(x)
    outputs = []
    for chunk in x.split(CHUNK_TOKENS, dim=1):
        hidden, states = extend_windows(model, chunk, states)
        outputs.append(hidden)
    return torch.cat(outputs, dim=1)


def extend_windows(model: Qwen2Model, x: Tensor, states: Sequence[WindowState]) -> tuple[Tensor, list[WindowState]]:
    """The next tokens [B, S, D] of several sequences -> hidden states [B, S, D] and what each goes on from."""
    memory = WindowMemory(WindowBatch.of(states), x.shape[1])
    hidden = model(x, memory)
    return hidden, memory.after().split([state.num_seen + x.shape[1] for state in states])
