"""The released geometry, written down once: configuration values and tensor names of the 42-shard snapshot."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

_CONFIG: dict[str, Any] = {
    "architectures": ["BailingMM2NativeForConditionalGeneration"],
    "model_type": "bailingmm_moe_v2_lite",
    "mlp_depth": 2,
    "torch_dtype": "bfloat16",
    "llm_config": {
        "vocab_size": 157184,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "first_k_dense_replace": 1,
        "router_type": "MultiRouter",
        "moe_router_topk_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "use_expert_bias": True,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "use_qk_norm": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "rope_theta": 2400000,
        "rope_scaling": {"factor": None, "type": "video_rope"},
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 32768,
        "norm_head": False,
        "norm_softmax": False,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
        "output_dropout": 0.0,
        "tie_word_embeddings": False,
        "eos_token_id": 156895,
        "pad_token_id": 156892,
        "image_patch_token": 157157,
        "image_start_token": 157158,
        "video_patch_token": 157175,
        "video_start_token": 157159,
        "use_interleaved_frame_timestamp": True,
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "num_heads": 16,
        "intermediate_size": 4304,
        "hidden_act": "gelu_pytorch_tanh",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "num_position_embeddings": 2304,
        "out_hidden_size": 4096,
        "deepstack_visual_indexes": [8, 16, 24],
        "dtype": "float32",
    },
    "audio_config": {
        "ds_kernel_size": 3,
        "ds_stride": 2,
        "norm_query_embeds": True,
        "whisper_encoder_config": {"n_mels": 128, "n_ctx": 15000, "n_state": 1280, "n_head": 20, "n_layer": 32},
    },
}

NUM_TENSORS = 25_131
NUM_ELEMENTS = 104_251_446_768


def released_config() -> dict[str, Any]:
    """A fresh copy of the released `config.json`, the fields that matter."""
    return copy.deepcopy(_CONFIG)


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
