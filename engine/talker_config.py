"""What the speech part of a checkpoint says about itself: `talker/config.json`, `talker/llm/`, `talker/vae/`.

Field names keep the released spelling. A value that would miswire a model silently is refused here, with the field,
its value and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.model_config import build

TALKER_FOLDER = "talker"
LLM_FOLDER = "llm"
VAE_FOLDER = "vae"

SPEAKER_WIDTH = 192  # what the speaker encoder gives


@dataclass(frozen=True, slots=True)
class Qwen2Config:
    """A Qwen2 decoder; `window` keys are seen by each query, itself included, or all of them where it is None."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float
    vocab_size: int = 1
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    window: int | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """`flowmodel` or `aggregator`: a stack of bidirectional blocks over latents."""

    hidden_size: int
    depth: int
    num_heads: int
    in_channels: int
    mlp_ratio: float = 4.0
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True)
class TalkerConfig:
    """`talker/config.json` with the language model of `talker/llm/`.

    `patch_size` latents are made per step of the language model; the flow model sees `history_patch_size` earlier
    latents (latents, not patches). `cond_dim` is the width of its condition.
    """

    steps: int
    patch_size: int
    history_patch_size: int
    cfg_strength: float
    flowmodel: DiTConfig
    aggregator: DiTConfig
    cond_dim: int
    llm: Qwen2Config


@dataclass(frozen=True, slots=True)
class AudioVAEConfig:
    """`talker/vae/config.json`: `patch_size` frames of `hop_size` samples make one latent."""

    sample_rate: int
    patch_size: int
    latent_dim: int
    hop_size: int
    encoder: Qwen2Config
    decoder: Qwen2Config

    @property
    def latent_samples(self) -> int:
        """Samples of one latent."""
        return self.patch_size * self.hop_size


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """Talker and audio VAE, checked against each other."""

    talker: TalkerConfig
    vae: AudioVAEConfig

    @property
    def patch_samples(self) -> int:
        """Samples of one step of the language model."""
        return self.talker.patch_size * self.vae.latent_samples

    @property
    def patch_columns(self) -> int:
        """Frames of the VAE's backbones in one step of the language model."""
        return self.talker.patch_size * self.vae.patch_size

    @property
    def patch_s(self) -> float:
        """Seconds of audio of one step."""
        return self.patch_samples / self.vae.sample_rate


def find_talker(path: Path) -> Path | None:
    """The talker's directory in a snapshot, or `path` itself if it is one; None where there is no speech part."""
    if (path / TALKER_FOLDER / "config.json").is_file():
        return path / TALKER_FOLDER
    own = path / "config.json"
    return path if own.is_file() and "flowmodel" in _read(own) else None


def load_speech_config(folder: Path) -> SpeechConfig:
    """Read and check the three files of the talker's directory.

    Raises:
        ConfigError: a file is missing, is no JSON object, lacks a field, or says something that cannot be wired.
    """
    talker = parse_talker(_read(folder / "config.json"), _read(folder / LLM_FOLDER / "config.json"))
    vae = parse_vae(_read(folder / VAE_FOLDER / "config.json"))
    for name, width in (("flowmodel", talker.flowmodel.in_channels), ("aggregator", talker.aggregator.in_channels)):
        if width != vae.latent_dim:
            raise ConfigError(
                f"{name}.in_channels {width} is not the latent_dim {vae.latent_dim} of {VAE_FOLDER}/config.json; "
                "talker and VAE do not belong together"
            )
    return SpeechConfig(talker, vae)


def parse_talker(tree: Mapping[str, Any], llm_tree: Mapping[str, Any]) -> TalkerConfig:
    """The talker from its own file and its language model's."""
    where = "talker/config.json"
    llm = parse_qwen2(llm_tree, "talker/llm/config.json")
    flow_tree = _section(tree, "flowmodel", where)
    _refuse_speaker_token(flow_tree)
    config = TalkerConfig(
        steps=int(_required(tree, "steps", where)),
        patch_size=int(_required(tree, "patch_size", where)),
        history_patch_size=int(_required(tree, "history_patch_size", where)),
        cfg_strength=float(_required(tree, "cfg_strength", where)),
        flowmodel=parse_dit(flow_tree, "flowmodel"),
        aggregator=parse_dit(_section(tree, "aggregator", where), "aggregator"),
        cond_dim=int(flow_tree.get("llm_cond_dim", llm.hidden_size)),
        llm=llm,
    )
    if config.cond_dim != llm.hidden_size:
        raise ConfigError(f"flowmodel.llm_cond_dim {config.cond_dim} is not the hidden_size {llm.hidden_size} of llm/")
    if min(config.steps, config.patch_size) < 1 or config.history_patch_size < config.patch_size:
        raise ConfigError(
            f"{where}: steps {config.steps}, patch_size {config.patch_size}, history_patch_size "
            f"{config.history_patch_size}; all must be positive and the history must hold one patch"
        )
    return config


def parse_vae(tree: Mapping[str, Any]) -> AudioVAEConfig:
    """The audio VAE from its file; training-only keys are left aside."""
    where = "talker/vae/config.json"
    enc, dec = _section(tree, "enc_kwargs", where), _section(tree, "dec_kwargs", where)
    config = AudioVAEConfig(
        sample_rate=int(_required(tree, "sample_rate", where)),
        patch_size=int(_required(tree, "patch_size", where)),
        latent_dim=int(_required(enc, "latent_dim", "enc_kwargs")),
        hop_size=int(_required(enc, "hop_size", "enc_kwargs")),
        encoder=parse_qwen2(_section(enc, "backbone", "enc_kwargs"), "enc_kwargs.backbone"),
        decoder=parse_qwen2(_section(dec, "backbone", "dec_kwargs"), "dec_kwargs.backbone"),
    )
    for section, key, want in (
        (enc, "input_dim", config.hop_size),  # frames that overlap are not built
        (dec, "output_dim", config.hop_size),
        (dec, "latent_dim", config.latent_dim),
    ):
        if section.get(key) != want:
            raise ConfigError(f"{where}: {key} is {section.get(key)}, the other side of the VAE needs {want}")
    for name, backbone in (("enc_kwargs", config.encoder), ("dec_kwargs", config.decoder)):
        if backbone.window is None:
            raise ConfigError(f"{where}: {name}.backbone has no sliding window; full attention gives other audio")
    return config


def parse_qwen2(tree: Mapping[str, Any], where: str) -> Qwen2Config:
    """A Qwen2 decoder from the file of its language model or from a VAE's `backbone`."""
    refused = {"hidden_act": ("silu",), "is_causal": (True,), "rope_scaling": (None,)}
    _refuse(tree, refused, where)
    flat = dict(tree)
    if tree.get("use_sliding_window"):
        if tree.get("max_window_layers", 0) != 0:
            raise ConfigError(f"{where}: max_window_layers is {tree['max_window_layers']}; only 0 is implemented")
        flat["window"] = int(_required(tree, "sliding_window", where))
    consumed = frozenset(refused) | {"use_sliding_window", "sliding_window", "max_window_layers"}
    consumed |= {"_attn_implementation", "tie_word_embeddings", "eos_token_id"}
    config = build(Qwen2Config, flat, where, consumed)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if config.hidden_size % heads or config.head_dim % 2 or heads % kv_heads:
        raise ConfigError(
            f"{where}: hidden_size {config.hidden_size} with {heads} heads and {kv_heads} key/value heads; "
            "heads must be equal, even in width, and each key/value head must serve the same number of them"
        )
    return config


def parse_dit(tree: Mapping[str, Any], where: str) -> DiTConfig:
    """A `flowmodel` or `aggregator` section."""
    refused = {"attn_mask_enabled": (False,), "qk_norm": (None,), "pe_attn_head": (None,)}
    _refuse(tree, refused, where)
    consumed = frozenset(refused) | {"attn_backend", "dropout", "llm_cond_dim", "llm_input_dim"}
    config = build(DiTConfig, tree, where, consumed)
    if config.hidden_size % config.num_heads or config.head_dim % 2:
        raise ConfigError(
            f"{where}: hidden_size {config.hidden_size} with num_heads {config.num_heads} gives no even head width"
        )
    return config


def _refuse(tree: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for key, values in allowed.items():
        if key in tree and tree[key] not in values:
            raise ConfigError(f"{where}.{key} is {tree[key]!r}; only {values[0]!r} is implemented")


def _refuse_speaker_token(tree: Mapping[str, Any]) -> None:
    if tree.get("spk_dim") is not None:
        raise ConfigError(
            f"flowmodel.spk_dim is {tree['spk_dim']}; a speaker token in the flow model is not implemented"
        )


def _section(tree: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    section = tree.get(key)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {key} is missing; the configuration is incomplete")
    return section


def _required(tree: Mapping[str, Any], key: str, where: str) -> Any:
    if tree.get(key) is None:
        raise ConfigError(f"{where}: {key} is missing; the configuration is incomplete")
    return tree[key]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; the speech part of the checkpoint is incomplete") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{file}: holds no JSON object; fetch the file again")
    return tree
