"""What a decode step must read at least, and how fast the machine reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from engine.layers.embedding import VocabParallelEmbedding
from engine.layers.moe import Experts
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
    """From the parameters and buffers that the decoder holds, whatever their dtype; the embedding is looked up."""
    model: Ming = loaded.runner.model
    fixed, expert = 0, 0
    for module in model.model.modules():
        size = _own_bytes(module)
        if isinstance(module, Experts):
            expert += size // loaded.runner.model.cfg.llm.num_experts
        elif not isinstance(module, VocabParallelEmbedding) and not _is_unused_gate(module, model):
            fixed += size
    return StepBytes(fixed, expert)


def _is_unused_gate(module: nn.Module, model: Ming) -> bool:
    """A decoded token is routed by the text gate alone."""
    gates = [(m.image_gate, m.audio_gate) for m in model.model.modules() if hasattr(m, "image_gate")]
    return any(module is gate for pair in gates for gate in pair)


def _own_bytes(module: nn.Module) -> int:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


def device_name(tp: int) -> str:
    """What the ranks run on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return name if tp == 1 else f"{tp} x {name}"
