"""What a decode step must read at least, and how fast the machine reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from engine.bench.parts import Part
from engine.layers.embedding import VocabParallelEmbedding
from engine.layers.moe import Experts, MultiRouter, SparseMoE
from engine.models.bailing_moe import DecoderLayer
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


def part_bytes(loaded: LoadedEngine, batch: int, distinct_experts: float, context: float) -> dict[Part, float]:
    """What each part of a decode step of `batch` sequences of `context` tokens reads: weights, keys and values."""
    model, caches = loaded.runner.model.model, loaded.runner.caches
    num_experts = loaded.runner.model.cfg.llm.num_experts
    found = dict.fromkeys(Part, 0.0)
    found[Part.ENDS] += _num_bytes(model.rotary_emb)
    found[Part.NORMS] += _num_bytes(model.norm)
    found[Part.HEAD] += _num_bytes(model.lm_head)
    for layer, cache in zip(model.layers, caches, strict=True):
        assert isinstance(layer, DecoderLayer)
        found[Part.NORMS] += _num_bytes(layer.input_layernorm) + _num_bytes(layer.post_attention_layernorm)
        found[Part.QKV] += _num_bytes(layer.attention.query_key_value)
        found[Part.HEADS] += _num_bytes(layer.attention.q_norm) + _num_bytes(layer.attention.k_norm)
        token_bytes = sum(x[0, 0].numel() * x.element_size() for x in (cache.k, cache.v))
        found[Part.ATTENTION] += batch * context * token_bytes
        found[Part.OUTPUT] += _num_bytes(layer.attention.dense)
        if isinstance(layer.mlp, SparseMoE):
            found[Part.GATE] += _num_bytes(layer.mlp.router.gate)
            experts = _num_bytes(layer.mlp.experts)
            shared = _num_bytes(layer.mlp.shared_experts) if layer.mlp.shared_experts is not None else 0
            found[Part.EXPERTS] += shared + distinct_experts * (experts // num_experts)
        else:
            found[Part.DENSE] += _num_bytes(layer.mlp)
    return found


def _num_bytes(module: nn.Module) -> int:
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def device_name(tp: int) -> str:
    """What the ranks run on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return name if tp == 1 else f"{tp} x {name}"
