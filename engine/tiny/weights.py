"""The embedded model's weights: released names and shapes."""

from __future__ import annotations

from collections.abc import Iterator

from engine.tiny.architecture import AUDIO, LLM, VISION, WHISPER
from engine.tiny.spec import TensorSpec, biased, linear, rms_norm
from engine.tiny.vocabulary import VOCAB_SIZE


def tensor_specs() -> list[TensorSpec]:
    """Every tensor of the snapshot, in the order of its files.

    The audio position table is analytic, and left out as a checkpoint may.
    """
    return [*_thinker(), *_vision(), *_audio(), *_projectors()]


def _layer_norm(name: str, width: int) -> Iterator[TensorSpec]:
    yield rms_norm(name, width)
    yield TensorSpec(f"{name}.bias", (width,), std=0.02)


def _thinker() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield TensorSpec("model.model.word_embeddings.weight", (VOCAB_SIZE, hidden), std=1.0)
    for layer in range(LLM["num_hidden_layers"]):
        yield from _decoder_layer(f"model.model.layers.{layer}", is_dense=layer < LLM["first_k_dense_replace"])
    yield rms_norm("model.model.norm", hidden)
    # Logits of spread 3: the best is clear of the second, and sampling at temperature 1 still varies.
    yield linear("model.lm_head", VOCAB_SIZE, hidden, gain=3.0)


def _decoder_layer(name: str, *, is_dense: bool) -> Iterator[TensorSpec]:
    hidden, head_dim, num_heads = LLM["hidden_size"], LLM["head_dim"], LLM["num_attention_heads"]
    num_qkv_heads = num_heads + 2 * LLM["num_key_value_heads"]
    yield rms_norm(f"{name}.input_layernorm", hidden)
    yield linear(f"{name}.attention.query_key_value", num_qkv_heads * head_dim, hidden)
    yield rms_norm(f"{name}.attention.q_norm", head_dim)
    yield rms_norm(f"{name}.attention.k_norm", head_dim)
    yield linear(f"{name}.attention.dense", hidden, num_heads * head_dim)
    yield rms_norm(f"{name}.post_attention_layernorm", hidden)
    yield from _mlp(f"{name}.mlp", LLM["intermediate_size"]) if is_dense else _experts(f"{name}.mlp")


def _experts(name: str) -> Iterator[TensorSpec]:
    num_experts, width = LLM["num_experts"], LLM["moe_intermediate_size"]
    for gate in ("gate", "image_gate", "audio_gate"):
        yield linear(f"{name}.{gate}", num_experts, LLM["hidden_size"])
        yield TensorSpec(f"{name}.{gate}.expert_bias", (num_experts,), std=0.1)
    for expert in range(num_experts):
        yield from _mlp(f"{name}.experts.{expert}", width)
    yield from _mlp(f"{name}.shared_experts", width * LLM["num_shared_experts"])


def _mlp(name: str, width: int) -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield linear(f"{name}.gate_proj", width, hidden)
    yield linear(f"{name}.up_proj", width, hidden)
    yield linear(f"{name}.down_proj", hidden, width)


def _vision() -> Iterator[TensorSpec]:
    hidden, width, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    frames, channels = VISION["temporal_patch_size"], VISION["in_channels"]
    yield from biased("vision.patch_embed.proj", hidden, channels, frames, patch, patch)
    yield TensorSpec("vision.pos_embed.weight", (VISION["num_position_embeddings"], hidden), std=0.5)
    for block in (f"vision.blocks.{i}" for i in range(VISION["depth"])):
        yield from _layer_norm(f"{block}.norm1", hidden)
        yield from biased(f"{block}.attn.qkv", 3 * hidden, hidden)
        yield from biased(f"{block}.attn.proj", hidden, hidden)
        yield from _layer_norm(f"{block}.norm2", hidden)
        yield from biased(f"{block}.mlp.linear_fc1", width, hidden)
        yield from biased(f"{block}.mlp.linear_fc2", hidden, width)
    merged = hidden * VISION["spatial_merge_size"] ** 2
    yield from _merger("vision.merger", hidden, merged)
    for i in range(len(VISION["deepstack_visual_indexes"])):
        yield from _merger(f"vision.deepstack_merger_list.{i}", merged, merged)


def _merger(name: str, norm_width: int, merged: int) -> Iterator[TensorSpec]:
    yield from _layer_norm(f"{name}.norm", norm_width)
    yield from biased(f"{name}.linear_fc1", merged, merged)
    yield from biased(f"{name}.linear_fc2", VISION["out_hidden_size"], merged)


def _audio() -> Iterator[TensorSpec]:
    state = WHISPER["n_state"]
    yield from biased("audio.conv1", state, WHISPER["n_mels"], 3)
    yield from biased("audio.conv2", state, state, 3)
    for block in (f"audio.blocks.{i}" for i in range(WHISPER["n_layer"])):
        yield from _layer_norm(f"{block}.attn_ln", state)
        yield from biased(f"{block}.attn.query", state, state)
        yield linear(f"{block}.attn.key", state, state)  # the only projection without a bias
        yield from biased(f"{block}.attn.value", state, state)
        yield from biased(f"{block}.attn.out", state, state)
        yield from _layer_norm(f"{block}.mlp_ln", state)
        yield from biased(f"{block}.mlp.0", 4 * state, state)
        yield from biased(f"{block}.mlp.2", state, 4 * state)
    yield from _layer_norm("audio.ln_post", state)


def _projectors() -> Iterator[TensorSpec]:
    hidden = LLM["hidden_size"]
    yield from biased("linear_proj.0", hidden, VISION["out_hidden_size"])
    yield from biased("linear_proj.2", hidden, hidden)
    yield from biased("linear_proj_audio.0", hidden, WHISPER["n_state"], AUDIO["ds_kernel_size"])
    yield from biased("linear_proj_audio.3", hidden, hidden)
