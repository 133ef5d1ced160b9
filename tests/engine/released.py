"""The released snapshot of 42 shards: a copy of its configuration, and its tensor names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from engine.released import CONFIG

NUM_TENSORS = 25_131
NUM_ELEMENTS = 104_251_446_768


def released_config() -> dict[str, Any]:
    """A fresh copy of the released `config.json`, the fields that matter."""
    return copy.deepcopy(CONFIG)


def released_names() -> list[str]:
    """Every tensor name of the understanding model."""
    return [*_thinker(), *_vision(), *_audio()]


def _leaves(prefix: str, *leaves: str) -> Iterator[str]:
    return (prefix + leaf for leaf in leaves)


def _thinker() -> Iterator[str]:
    yield from _leaves("model.", "model.word_embeddings.weight", "model.norm.weight", "lm_head.weight")
    projections = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
    for i in range(32):
        layer = f"model.model.layers.{i}."
        yield from _leaves(layer, "input_layernorm.weight", "post_attention_layernorm.weight")
        yield from _leaves(
            layer + "attention.", "query_key_value.weight", "dense.weight", "q_norm.weight", "k_norm.weight"
        )
        if i == 0:
            yield from _leaves(layer + "mlp.", *projections)
            continue
        for gate in ("gate", "image_gate", "audio_gate"):
            yield from _leaves(f"{layer}mlp.{gate}.", "weight", "expert_bias")
        for j in range(256):
            yield from _leaves(f"{layer}mlp.experts.{j}.", *projections)
        yield from _leaves(layer + "mlp.shared_experts.", *projections)


def _pairs(prefix: str, *modules: str) -> Iterator[str]:
    return (f"{prefix}{module}.{leaf}" for module in modules for leaf in ("weight", "bias"))


def _vision() -> Iterator[str]:
    yield "vision.pos_embed.weight"
    yield from _pairs("vision.", "patch_embed.proj")
    for i in range(27):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
        yield from _pairs(f"vision.blocks.{i}.", *parts)
    for merger in ("merger", *(f"deepstack_merger_list.{i}" for i in range(3))):
        yield from _pairs(f"vision.{merger}.", "norm", "linear_fc1", "linear_fc2")
    yield from _pairs("linear_proj.", "0", "2")


def _audio() -> Iterator[str]:
    yield "audio.positional_embedding"
    yield from _pairs("audio.", "conv1", "conv2", "ln_post")
    for i in range(32):
        yield from _pairs(
            f"audio.blocks.{i}.", "attn.query", "attn.value", "attn.out", "attn_ln", "mlp_ln", "mlp.0", "mlp.2"
        )
        yield f"audio.blocks.{i}.attn.key.weight"  # without bias
    yield from _pairs("linear_proj_audio.", "0", "3")
