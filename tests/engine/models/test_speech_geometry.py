"""The released configuration builds the released tensors: names and shapes, without storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.models.audio_vae import AudioVAE
from engine.models.talker import Talker
from engine.talker_config import parse_talker, parse_vae
from engine.weights.load import make_plan, stored_shapes
from engine.weights.speech_rules import TALKER, VAE

BLOCKS = {
    "attn_backend": "torch", "attn_mask_enabled": False, "depth": 8, "hidden_size": 1024, "num_heads": 16,
    "mlp_ratio": 4, "in_channels": 64, "qk_norm": None, "pe_attn_head": None,
}  # fmt: skip
LLM = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "max_position_embeddings": 32768, "use_sliding_window": False, "tie_word_embeddings": True,
}  # fmt: skip
BACKBONE = LLM | {"vocab_size": 1, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
TALKER_TREE = {
    "steps": 10, "patch_size": 4, "history_patch_size": 32, "cfg_strength": 2.0,
    "flowmodel": BLOCKS | {"dropout": 0.0, "llm_input_dim": 896}, "aggregator": BLOCKS | {"dropout": 0.1},
}  # fmt: skip
VAE_TREE = {
    "sample_rate": 44100, "patch_size": 4, "init_method": "kaiming",
    "enc_kwargs": {"input_dim": 882, "hop_size": 882, "latent_dim": 64, "backbone": BACKBONE},
    "dec_kwargs": {"output_dim": 882, "latent_dim": 64, "backbone": BACKBONE},
}  # fmt: skip

QWEN2 = {
    "input_layernorm.weight": (896,),
    "post_attention_layernorm.weight": (896,),
    "self_attn.q_proj.weight": (896, 896),
    "self_attn.q_proj.bias": (896,),
    "self_attn.k_proj.weight": (128, 896),
    "self_attn.k_proj.bias": (128,),
    "self_attn.v_proj.weight": (128, 896),
    "self_attn.v_proj.bias": (128,),
    "self_attn.o_proj.weight": (896, 896),
    "mlp.gate_proj.weight": (4864, 896),
    "mlp.up_proj.weight": (4864, 896),
    "mlp.down_proj.weight": (896, 4864),
}
BLOCK = {
    "norm1.weight": (1024,),
    "norm2.weight": (1024,),
    **{f"attn.{name}.weight": (1024, 1024) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn.{name}.bias": (1024,) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    "mlp.ff.0.0.weight": (4096, 1024),
    "mlp.ff.0.0.bias": (4096,),
    "mlp.ff.2.weight": (1024, 4096),
    "mlp.ff.2.bias": (1024,),
}

Shapes = dict[str, tuple[int, ...]]


def layers(prefix: str, count: int, one: Shapes) -> Shapes:
    return {f"{prefix}.{i}.{name}": shape for i in range(count) for name, shape in one.items()}


def talker_tensors() -> Shapes:
    names: Shapes = {"model.embed_tokens.weight": (151936, 896), "model.norm.weight": (896,)}
    names |= layers("model.layers", 24, QWEN2)
    names |= layers("cfm.model.blocks", 8, BLOCK) | layers("aggregator.blocks", 8, BLOCK)
    names |= {
        "cfm.model.t_embedder.time_mlp.0.weight": (1024, 256),
        "cfm.model.t_embedder.time_mlp.0.bias": (1024,),
        "cfm.model.t_embedder.time_mlp.2.weight": (1024, 1024),
        "cfm.model.t_embedder.time_mlp.2.bias": (1024,),
        "cfm.model.x_embedder.weight": (1024, 64),
        "cfm.model.x_embedder.bias": (1024,),
        "cfm.model.c_embedder.cond_embedder.weight": (1024, 896),
        "cfm.model.c_embedder.cond_embedder.bias": (1024,),
        "cfm.model.final_layer.norm_final.weight": (1024,),
        "cfm.model.final_layer.linear.weight": (64, 1024),
        "cfm.model.final_layer.linear.bias": (64,),
        "aggregator.word_embedder.weight": (1, 1024),
        "aggregator.x_embedder.weight": (1024, 64),
        "aggregator.x_embedder.bias": (1024,),
        "aggregator.final_layer.norm_final.weight": (1024,),
        "aggregator.final_layer.linear.weight": (896, 1024),
        "aggregator.final_layer.linear.bias": (896,),
        "stop_head.weight": (2, 896),
        "stop_head.bias": (2,),
        "spk_head.weight": (896, 192),
        "spk_head.bias": (896,),
    }
    return names


def vae_tensors() -> Shapes:
    names = layers("encoder.encoder.layers", 24, QWEN2) | layers("encoder.aggregator.layers", 4, QWEN2)
    names |= layers("decoder.decoder.layers", 24, QWEN2)
    names |= {f"{part}.norm.weight": (896,) for part in ("encoder.encoder", "encoder.aggregator", "decoder.decoder")}
    return names | {
        "encoder.fc1.weight": (896, 882),
        "encoder.fc2.weight": (896, 896),
        "encoder.fc2.bias": (896,),
        "encoder.fc3.weight": (128, 896),
        "encoder.fc3.bias": (128,),
        "encoder.cls_embed": (1, 1, 896),
        "decoder.fc1.weight": (896, 64),
        "decoder.fc1.bias": (896,),
        "decoder.head.out.weight": (3530, 896),
        "decoder.head.out.bias": (3530,),
    }


@pytest.fixture(scope="module")
def models() -> tuple[Talker, AudioVAE]:
    with torch.device("meta"):
        return Talker(parse_talker(TALKER_TREE, LLM)), AudioVAE(parse_vae(VAE_TREE), "all")


@pytest.mark.parametrize(("index", "rules", "stored"), [(0, TALKER, talker_tensors()), (1, VAE, vae_tensors())])
def test_every_released_tensor_has_its_place(models: Any, index: int, rules: Any, stored: Shapes) -> None:
    shapes = stored_shapes(models[index])
    plan = make_plan(stored, shapes, [rules])
    assert plan.problems == []
    for name, shape in stored.items():
        assert tuple(shapes[plan.assigned[name][1].parameter]) == shape


def test_released_sequence_lengths(models: tuple[Talker, AudioVAE]) -> None:
    """37 tokens for the flow model, 5 for the aggregator, frames of 3,528 samples: tables exist without storage."""
    talker, vae = models
    assert talker.cfm.model.table.angles.shape == (37, 32)
    assert talker.aggregator.table.angles.shape == (5, 32)
    assert vae.decoder.head.window.shape == (3528,)
    assert not any(buffer.is_meta for model in models for buffer in model.buffers())


def test_released_sizes(models: tuple[Talker, AudioVAE]) -> None:
    """About 0.7 and 0.8 thousand million parameters."""
    talker, vae = (sum(p.numel() for p in model.parameters()) for model in models)
    assert 0.65e9 < talker < 0.75e9
    assert 0.75e9 < vae < 0.85e9
