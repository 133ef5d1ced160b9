"""What a decode step must read at least, and how fast the machine reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from engine.layers.embedding import VocabParallelEmbedding
from engine.layers.moe import Experts, MultiRouter
from engine.models.thinker import Ming
from engine.runtime.build import LoadedEngine


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes of one rank: `fixed` every step reads, `expert` more for each distinct expert of all MoE layers."""

    fixed: int
    expert: int

    def step_s(self, distinct_experts: float, bytes_per_s: float) -> float:
        """The shortest time of a decode step."""
        return (self.fixed + distinct_experts * self.expert) / bytes_per_s


def step_bytes(loaded: LoadedEngine) -> StepBytes:
    """From what the decoder holds, in whatever format; the embedding is looked up, and tokens use the text gate."""
    model: Ming = loaded.runner.model
    experts, unread = 0, 0
    for module in model.model.modules():
        if isinstance(module, Experts):
            experts += _num_bytes(module)
        elif isinstance(module, VocabParallelEmbedding):
            unread += _num_bytes(module)
        elif isinstance(module, MultiRouter):
            unread += sum(_num_bytes(gate) for gate in (module.image_gate, module.audio_gate) if gate is not None)
    return StepBytes(_num_bytes(model.model) - experts - unread, experts // model.cfg.llm.num_experts)


def _num_bytes(module: nn.Module) -> int:
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def device_name(tp: int) -> str:
    """What the ranks run on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return name if tp == 1 else f"{tp} x {name}"
