"""The embedded model's speech part: released layout and time scale (0.32 s a patch at 44.1 kHz), small widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.tiny.spec import TensorSpec, biased, linear, rms_norm
from engine.tiny.vocabulary import NUM_TEXT_TOKENS, tokenizer_json

# In the released order; the talker has a tokenizer of its own.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<end_of_audio>", "<audioPatch>", "<audio>", "</audio>"),
)
SPECIAL_IDS = {token: NUM_TEXT_TOKENS + n for n, token in enumerate(SPECIAL_TOKENS)}

_LATENT_DIM = 16
_HOP = 882
_SPEAKER_WIDTH = 192
_AGGREGATOR_LAYERS = 4  # of the VAE's encoder; no configuration names it

LLM: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": NUM_TEXT_TOKENS + len(SPECIAL_TOKENS),
    "eos_token_id": SPECIAL_IDS["<|im_end|>"],
}

_DIT: dict[str, Any] = {
    "attn_backend": "torch",
    "attn_mask_enabled": False,
    "depth": 2,
    "hidden_size": 64,
    "in_channels": _LATENT_DIM,
    "mlp_ratio": 4,
    "num_heads": 4,
    "pe_attn_head": None,
    "qk_norm": None,
}

CONFIG: dict[str, Any] = {
    "architectures": ["BailingTalker2"],
    "steps": 10,
    "patch_size": 4,
    "history_patch_size": 32,
    "cfg_strength": 2.0,
    "flowmodel": {**_DIT, "dropout": 0.0, "llm_cond_dim": LLM["hidden_size"]},
    "aggregator": {**_DIT, "dropout": 0.1},
}

_BACKBONE: dict[str, Any] = {
    **{key: LLM[key] for key in ("model_type", "attention_dropout", "hidden_act", "hidden_size", "intermediate_size")},
    **{key: LLM[key] for key in ("max_position_embeddings", "num_attention_heads", "num_key_value_heads")},
    **{key: LLM[key] for key in ("num_hidden_layers", "rms_norm_eps", "rope_theta", "tie_word_embeddings")},
    "_attn_implementation": "flash_attention_2",
    "is_causal": True,
    "max_window_layers": 0,
    "sliding_window": 64,
    "use_cache": False,
    "use_sliding_window": True,
    "vocab_size": 1,
}

VAE: dict[str, Any] = {
    "architectures": ["AudioVAE"],
    "sample_rate": 44100,
    "patch_size": 4,
    "init_method": "kaiming",
    "enc_kwargs": {"backbone": _BACKBONE, "hop_size": _HOP, "input_dim": _HOP, "latent_dim": _LATENT_DIM},
    "dec_kwargs": {"backbone": _BACKBONE, "latent_dim": _LATENT_DIM, "output_dim": _HOP},
}


def tokenizer() -> dict[str, Any]:
    """The content of `talker/llm/tokenizer.json`."""
    return tokenizer_json(SPECIAL_IDS)


def talker_specs() -> list[TensorSpec]:
    """Every tensor of `talker/model.safetensors`."""
    return [*_language_model(), *_flow(), *_aggregator(), *_heads()]


def vae_specs() -> list[TensorSpec]:
    """Every tensor of `talker/vae/model.safetensors` that is read."""
    return [*_encoder(), *_decoder()]


def _language_model() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield TensorSpec("model.embed_tokens.weight", (LLM["vocab_size"], hidden), std=1.0)
    yield from _qwen2("model", LLM["num_hidden_layers"])


def _qwen2(name: str, num_layers: int) -> Iterator[TensorSpec]:
    hidden, width = LLM["hidden_size"], LLM["intermediate_size"]
    kv_width = hidden // LLM["num_attention_heads"] * LLM["num_key_value_heads"]
    for layer in (f"{name}.layers.{i}" for i in range(num_layers)):
        yield rms_norm(f"{layer}.input_layernorm", hidden)
        yield from biased(f"{layer}.self_attn.q_proj", hidden, hidden)
        yield from biased(f"{layer}.self_attn.k_proj", kv_width, hidden)
        yield from biased(f"{layer}.self_attn.v_proj", kv_width, hidden)
        yield linear(f"{layer}.self_attn.o_proj", hidden, hidden)
        yield rms_norm(f"{layer}.post_attention_layernorm", hidden)
        yield linear(f"{layer}.mlp.gate_proj", width, hidden)
        yield linear(f"{layer}.mlp.up_proj", width, hidden)
        yield linear(f"{layer}.mlp.down_proj", hidden, width)
    yield rms_norm(f"{name}.norm", hidden)


def _flow() -> Iterator[TensorSpec]:
    hidden = _DIT["hidden_size"]
    yield from biased("cfm.model.t_embedder.time_mlp.0", hidden, 256)
    yield from biased("cfm.model.t_embedder.time_mlp.2", hidden, hidden)
    yield from biased("cfm.model.c_embedder.cond_embedder", hidden, LLM["hidden_size"])
    yield from _dit("cfm.model", _LATENT_DIM)


def _aggregator() -> Iterator[TensorSpec]:
    yield TensorSpec("aggregator.word_embedder.weight", (1, _DIT["hidden_size"]), std=1.0)
    yield from _dit("aggregator", LLM["hidden_size"])


def _dit(name: str, out_width: int) -> Iterator[TensorSpec]:
    hidden = _DIT["hidden_size"]
    yield from biased(f"{name}.x_embedder", hidden, _LATENT_DIM)
    for block in (f"{name}.blocks.{i}" for i in range(_DIT["depth"])):
        yield rms_norm(f"{block}.norm1", hidden)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from biased(f"{block}.attn.{part}", hidden, hidden)
        yield rms_norm(f"{block}.norm2", hidden)
        yield from biased(f"{block}.mlp.ff.0.0", _DIT["mlp_ratio"] * hidden, hidden)
        yield from biased(f"{block}.mlp.ff.2", hidden, _DIT["mlp_ratio"] * hidden)
    yield rms_norm(f"{name}.final_layer.norm_final", hidden)
    yield from biased(f"{name}.final_layer.linear", out_width, hidden)


def _heads() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    # Speech ends within a few seconds, sooner or later by what is said.
    yield linear("stop_head", 2, hidden)
    yield TensorSpec("stop_head.bias", (2,), std=0.02)
    yield from biased("spk_head", hidden, _SPEAKER_WIDTH)


def _encoder() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield linear("encoder.fc1", hidden, _HOP, gain=10.0)  # speech is far from 1 in size
    yield from biased("encoder.fc2", hidden, hidden)
    yield from biased("encoder.fc3", 2 * _LATENT_DIM, hidden)
    yield TensorSpec("encoder.cls_embed", (1, 1, hidden), std=1.0)
    yield from _qwen2("encoder.encoder", LLM["num_hidden_layers"])
    yield from _qwen2("encoder.aggregator", _AGGREGATOR_LAYERS)


def _decoder() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield from biased("decoder.fc1", hidden, _LATENT_DIM)
    yield from _qwen2("decoder.decoder", LLM["num_hidden_layers"])
    num_bins = 4 * _HOP + 2
    yield linear("decoder.head.out", num_bins, hidden)
    # Logarithms of magnitudes, then phases: the mean makes speech about a tenth of full scale.
    yield TensorSpec("decoder.head.out.bias", (num_bins,), std=0.02, mean=1.2)
