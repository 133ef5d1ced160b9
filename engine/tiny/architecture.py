"""The embedded model's `config.json`: the released tree with small numbers."""

from __future__ import annotations

from typing import Any

from engine.tiny.vocabulary import SPECIAL_IDS, VOCAB_SIZE

LLM: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe_v2",
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
    "first_k_dense_replace": 1,
    "head_dim": 128,  # the released file derives it from the hidden size, which would give 32 here
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.006,
    "intermediate_size": 512,
    "max_position_embeddings": 32768,
    "moe_intermediate_size": 64,
    "moe_router_topk_scaling_factor": 2.5,
    "n_group": 4,
    "norm_head": False,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "num_attention_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_shared_experts": 1,
    "output_router_logits": False,
    "partial_rotary_factor": 0.5,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"factor": None, "type": "video_rope"},
    "rope_theta": 2400000,
    "router_type": "MultiRouter",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "torch_dtype": "float32",
    "use_bias": False,
    "use_cache": True,
    "use_expert_bias": True,
    "use_interleaved_frame_timestamp": True,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "vocab_size": VOCAB_SIZE,
    "eos_token_id": SPECIAL_IDS["<|role_end|>"],
    "pad_token_id": SPECIAL_IDS["<|endoftext|>"],
    "image_patch_token": SPECIAL_IDS["<imagePatch>"],
    "image_start_token": SPECIAL_IDS["<image>"],
    "video_patch_token": SPECIAL_IDS["<framePatch>"],
    "video_start_token": SPECIAL_IDS["<video>"],  # the released file has the id of `</image>` here
}

VISION: dict[str, Any] = {
    "architectures": ["Qwen3MoeVisionTransformer"],
    "model_type": "qwen3_moe_vit",
    "deepstack_visual_indexes": [1, 2],
    "depth": 4,
    "dtype": "float32",
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 128,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "num_heads": 4,
    "num_position_embeddings": 576,
    "out_hidden_size": 256,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

WHISPER: dict[str, Any] = {"n_mels": 128, "n_ctx": 15000, "n_state": 128, "n_head": 4, "n_layer": 3}
AUDIO: dict[str, Any] = {
    "ds_kernel_size": 3,
    "ds_stride": 2,
    "norm_query_embeds": True,
    "whisper_encoder_config": WHISPER,
}

CONFIG: dict[str, Any] = {
    "architectures": ["BailingMM2NativeForConditionalGeneration"],
    "model_type": "bailingmm_moe_v2_lite",
    "mlp_depth": 2,
    "torch_dtype": "float32",
    "llm_config": LLM,
    "vision_config": VISION,
    "audio_config": AUDIO,
}

# The released image processor: pixels as CLIP normalises them, 4,096 to 16,777,216 of them.
PREPROCESSOR: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 1 / 255,
    "min_pixels": 4096,
    "max_pixels": 16777216,
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
}
