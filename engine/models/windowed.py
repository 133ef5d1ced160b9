"""A Qwen2 backbone with a sliding window over a whole sequence, in chunks that carry the window on."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.qwen2 import Qwen2Model
from engine.models.qwen2_memory import WindowMemory, WindowState

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
        memory = WindowMemory(states, chunk.shape[1])
        outputs.append(model(chunk, memory))
        states = memory.states()
    return torch.cat(outputs, dim=1)
