"""The released talker and audio VAE with generated weights, for measuring where there is no checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.models.audio_vae import AudioVAE
from engine.models.joined import join_projections
from engine.models.storage import allocate
from engine.models.talker import Talker
from engine.stages.load import SpeechModel
from engine.talker_config import AudioVAEConfig, DiTConfig, Qwen2Config, SpeechConfig, TalkerConfig

_DIT = DiTConfig(hidden_size=1024, depth=8, num_heads=16, in_channels=64)
_QWEN2_05B: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
_THETA = 1e6
NEVER_STOPS = -100.0  # what the stop head adds to its logit for "last": the length of a run is given


def released_config() -> SpeechConfig:
    """Sizes of the release: 0.32 s of 44.1 kHz audio per step."""
    llm = Qwen2Config(**_QWEN2_05B, rope_theta=_THETA, vocab_size=151936)
    backbone = Qwen2Config(**_QWEN2_05B, rope_theta=_THETA, window=64)
    return SpeechConfig(
        TalkerConfig(10, 4, 32, 2.0, flowmodel=_DIT, aggregator=_DIT, cond_dim=896, llm=llm),
        AudioVAEConfig(44100, 4, 64, 882, encoder=backbone, decoder=backbone),
    )


def tiny_config() -> SpeechConfig:
    """The same shape, small: for a run of the benchmark on any machine."""
    dit = DiTConfig(hidden_size=32, depth=2, num_heads=2, in_channels=8)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    llm = Qwen2Config(**sizes, rope_theta=_THETA, vocab_size=1000)
    backbone = Qwen2Config(**sizes, rope_theta=_THETA, window=64)
    return SpeechConfig(
        TalkerConfig(10, 4, 32, 2.0, flowmodel=dit, aggregator=dit, cond_dim=32, llm=llm),
        AudioVAEConfig(44100, 4, 8, 882, encoder=backbone, decoder=backbone),
    )


@torch.inference_mode()
def generate_model(config: SpeechConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> SpeechModel:
    """Norms 1, biases 0, embeddings of variance 1, products that keep the size of what they are given."""
    with torch.device("meta"):
        talker, vae = Talker(config.talker), AudioVAE(config.vae, "released")
    generator = torch.Generator(device).manual_seed(seed)
    for model in (talker, vae):
        allocate(model, device, dtype)
        for name, parameter in model.named_parameters():
            _fill(name, parameter, generator)
        join_projections(model)
    talker.stop_head.bias[1] = NEVER_STOPS
    return SpeechModel(config, talker.eval(), vae.eval(), "released")


def _fill(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith("bias"):
        parameter.zero_()
    elif "norm" in name:
        parameter.fill_(1)
    else:
        is_table = "embed_tokens" in name or "word_embedder" in name or "cls_embed" in name
        std = 1.0 if is_table else parameter.shape[-1] ** -0.5
        parameter.normal_(std=std, generator=generator)
