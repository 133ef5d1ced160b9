"""What the checkpoint says about itself: the released `config.json` tree as frozen dataclasses.

Field names keep the released spelling. Every combination that would miswire the model silently is refused here,
with the field, its value and the remedy. Keys that this engine does not know are kept in `unknown` and shown by
`ming-eval model inspect`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from engine.errors import ConfigError

log = logging.getLogger(__name__)

RELEASED_MROPE_SECTION = (8, 12, 12)
MERGE_SIZE = 2  # a constant of the released code
RELEASED_VIDEO_START_TOKEN = 157159  # `</image>` in the released tokenizer, stored by mistake

# Keys of the released files that the released code never reads; they carry no information for this engine.
_INERT_KEYS = frozenset(
    {
        *("architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path"),
        *("attention_dropout", "embedding_dropout", "output_dropout", "hidden_dropout_prob", "initializer_range"),
        *("norm_head", "norm_softmax", "norm_topk_prob", "use_expert_bias", "use_qk_norm", "output_router_logits"),
        *("pretraining_tp", "use_cache", "bos_token_id"),
    }
)

_ACCEPTED: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}

# Switches that the released code does not look at, and what it always does.
_UNCONDITIONAL = {
    "use_qk_norm": True,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "norm_head": False,
    "norm_softmax": False,
}

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """`llm_config`: the Ling-2.0 thinker."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    num_shared_experts: int
    n_group: int
    topk_group: int
    first_k_dense_replace: int
    rope_theta: float
    eos_token_id: int
    pad_token_id: int
    head_dim: int = 0
    router_type: Literal["MultiRouter", "topN"] = "MultiRouter"
    routed_scaling_factor: float = 2.5
    rms_norm_eps: float = 1e-6
    partial_rotary_factor: float = 1.0
    mrope_section: tuple[int, int, int] = RELEASED_MROPE_SECTION
    rope_type: str = "video_rope"
    max_position_embeddings: int = 32768
    use_interleaved_frame_timestamp: bool = True
    image_patch_token: int | None = None
    image_start_token: int | None = None
    image_end_token: int | None = None
    video_patch_token: int | None = None
    video_start_token: int | None = None
    video_end_token: int | None = None
    audio_patch_token: int | None = None
    audio_start_token: int | None = None
    audio_end_token: int | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rotary_dim(self) -> int:
        """Leading head dimensions that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The gates of each MoE layer, the text gate first."""
        return ("gate", "image_gate", "audio_gate") if self.router_type == "MultiRouter" else ("gate",)


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """`vision_config`: the vision tower."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    num_position_embeddings: int = 2304
    hidden_act: str = "gelu_pytorch_tanh"
    deepstack_visual_indexes: tuple[int, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    """`audio_config.whisper_encoder_config`."""

    n_mels: int
    n_ctx: int
    n_state: int
    n_head: int
    n_layer: int
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """`audio_config`: the audio tower and its strided projector."""

    whisper_encoder_config: WhisperConfig
    ds_kernel_size: int = 3
    ds_stride: int = 2
    norm_query_embeds: bool = True
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The whole `config.json` of the understanding model; towers are None where the file has none."""

    llm: LLMConfig
    vision: VisionConfig | None
    audio: AudioConfig | None
    mlp_depth: int
    model_type: str
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def unknown_keys(self) -> list[str]:
        """Dotted names of keys that were kept but not understood."""
        trees: dict[str, Mapping[str, Any]] = {"": self.unknown, "llm_config.": self.llm.unknown}
        if self.vision:
            trees["vision_config."] = self.vision.unknown
        if self.audio:
            trees["audio_config."] = self.audio.unknown
            trees["audio_config.whisper_encoder_config."] = self.audio.whisper_encoder_config.unknown
        return sorted(prefix + key for prefix, tree in trees.items() for key in tree)


def load_model_config(path: Path) -> ModelConfig:
    """Read and check `config.json` in directory `path`.

    Raises:
        ConfigError: the file is missing, is no JSON object, lacks a field, or says something that cannot be wired.
    """
    file = path / "config.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{file}: no such file; a snapshot is a directory with config.json in it") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again") from None
    return parse_model_config(tree)


def parse_model_config(tree: Mapping[str, Any]) -> ModelConfig:
    """Build a checked `ModelConfig` from the decoded JSON tree."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("llm_config"), Mapping):
        raise ConfigError(
            "config.json: llm_config is missing; this engine reads the released nested Ming configuration"
        )
    vision, audio = tree.get("vision_config"), tree.get("audio_config")
    known = {"llm_config", "vision_config", "audio_config", "mlp_depth", "model_type"}
    config = ModelConfig(
        llm=_parse_llm(tree["llm_config"]),
        vision=_parse_vision(vision) if vision else None,
        audio=_parse_audio(audio) if audio else None,
        mlp_depth=int(tree.get("mlp_depth", 2)),
        model_type=str(tree.get("model_type", "")),
        unknown={k: v for k, v in tree.items() if k not in known | _INERT_KEYS},
    )
    _check_llm(config.llm)
    if config.vision:
        _check_vision(config.vision)
    if config.audio:
        _check_audio(config.audio)
    return config


def build(cls: type[C], tree: Mapping[str, Any], where: str, consumed: frozenset[str] = frozenset()) -> C:
    """Fill dataclass `cls` from `tree`; keys it does not know go to `unknown`."""
    names = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    missing = [n for n, f in names.items() if f.default is MISSING and f.default_factory is MISSING and n not in tree]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; the configuration is incomplete")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items() if k in names}
    for name, value in values.items():
        _check_type(f"{where}.{name}", value, str(names[name].type), names[name].default)
    rest = {k: v for k, v in tree.items() if k not in names and k not in _INERT_KEYS | consumed}
    return cls(**values, unknown=rest)  # type: ignore[call-arg]


def _check_type(name: str, value: Any, wanted: str, default: Any) -> None:
    """A wrong type would surface far away, or not at all: `"256"` multiplies into text, null becomes a default."""
    if value is None:
        if default is not None:
            raise ConfigError(f"{name} is null; give it a value, or leave the key out")
        return
    accepted = _ACCEPTED.get(wanted.removesuffix(" | None"))
    if accepted is None:
        return
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted != "bool"):
        raise ConfigError(f"{name} is {value!r}; it must be of type {wanted.removesuffix(' | None')}")
    if isinstance(value, int) and wanted == "int" and value < 0:
        raise ConfigError(f"{name} is {value}; it cannot be negative")


def _parse_llm(tree: Mapping[str, Any]) -> LLMConfig:
    flat = dict(tree)
    _refuse_unsupported_llm(flat)
    # The released file spells it moe_router_topk_scaling_factor, the released code reads the other; both say 2.5.
    scaling = flat.pop("moe_router_topk_scaling_factor", None)
    if scaling is not None:
        flat.setdefault("routed_scaling_factor", scaling)
    rope = flat.get("rope_scaling") or {}
    flat["rope_type"] = rope.get("type", rope.get("rope_type", "video_rope"))
    if rope.get("mrope_section") is not None:
        flat["mrope_section"] = rope["mrope_section"]
    hidden_size, num_heads = flat.get("hidden_size"), flat.get("num_attention_heads")
    if not flat.get("head_dim") and isinstance(hidden_size, int) and isinstance(num_heads, int) and num_heads > 0:
        flat["head_dim"] = _derived_head_dim(hidden_size, num_heads)
    consumed = frozenset(
        {"rope_scaling", "hidden_act", "use_bias", "use_qkv_bias", "use_sliding_window", "sliding_window"}
        | {"tie_word_embeddings", "max_window_layers"}
    )
    return build(LLMConfig, flat, "llm_config", consumed)


def _derived_head_dim(hidden_size: int, num_heads: int) -> int:
    if hidden_size % num_heads:
        raise ConfigError(
            f"llm_config: hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}; "
            "give head_dim explicitly"
        )
    return hidden_size // num_heads


def _refuse_unsupported_llm(tree: Mapping[str, Any]) -> None:
    for key in ("use_bias", "use_qkv_bias", "use_sliding_window", "tie_word_embeddings"):
        if tree.get(key):
            raise ConfigError(f"llm_config.{key} is true; Ming's thinker has none, and this engine does not build it")
    for key, always in _UNCONDITIONAL.items():
        if tree.get(key, always) is not always:
            log.warning(
                "llm_config.%s is %r, which changes nothing: the released code never reads it, and neither does this "
                "engine; if the weights were trained otherwise, the answers will be wrong",
                *(key, tree[key]),
            )
    if tree.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"llm_config.hidden_act is {tree['hidden_act']!r}; only 'silu' is implemented")


def _check_llm(c: LLMConfig) -> None:
    def refuse(what: str, remedy: str) -> None:
        raise ConfigError(f"llm_config: {what}; {remedy}")

    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        if getattr(c, name) < 1:
            refuse(f"{name} is {getattr(c, name)}", "it must be at least 1")
    if c.num_attention_heads % c.num_key_value_heads:
        refuse(
            f"num_attention_heads {c.num_attention_heads} is not a multiple of num_key_value_heads "
            f"{c.num_key_value_heads}",
            "every key/value head must serve the same number of query heads",
        )
    if c.head_dim % 2 or c.rotary_dim % 2 or not 0 < c.rotary_dim <= c.head_dim:
        refuse(
            f"head_dim {c.head_dim} with partial_rotary_factor {c.partial_rotary_factor} rotates {c.rotary_dim} dims",
            "the rotary width must be even, positive and at most head_dim",
        )
    if c.rope_type != "video_rope":
        refuse(f"rope_scaling.type is {c.rope_type!r}", "only the released 'video_rope' layout is implemented")
    if len(c.mrope_section) != 3 or sum(c.mrope_section) != c.rotary_dim // 2:
        refuse(
            f"head_dim {c.head_dim} with partial_rotary_factor {c.partial_rotary_factor} leaves {c.rotary_dim // 2} "
            f"rotary frequencies, which rope_scaling.mrope_section {list(c.mrope_section)} does not partition",
            "its three parts (T, H, W) must add up to them; without the key the released [8, 12, 12] is meant",
        )
    _check_experts(c, refuse)
    _check_token_ids(c, refuse)


def _check_experts(c: LLMConfig, refuse: Any) -> None:
    if c.router_type not in ("MultiRouter", "topN"):
        refuse(f"router_type is {c.router_type!r}", "it must be 'MultiRouter' or 'topN'")
    if c.num_experts % c.n_group:
        refuse(f"num_experts {c.num_experts} does not divide into n_group {c.n_group}", "groups must be equal")
    if not 0 < c.topk_group <= c.n_group:
        refuse(f"topk_group {c.topk_group} is not within 1..n_group {c.n_group}", "correct topk_group")
    if c.num_experts // c.n_group < 2:
        refuse(f"n_group {c.n_group} leaves one expert a group", "a group's score is the sum of its two best experts")
    reachable = c.topk_group * (c.num_experts // c.n_group)
    if not 0 < c.num_experts_per_tok <= reachable:
        refuse(
            f"num_experts_per_tok {c.num_experts_per_tok} is not within 1..{reachable}",
            "only topk_group groups can be chosen from",
        )
    if not 0 <= c.first_k_dense_replace <= c.num_hidden_layers:
        refuse(
            f"first_k_dense_replace {c.first_k_dense_replace} is not within 0..{c.num_hidden_layers}",
            "correct the count",
        )


def _check_token_ids(c: LLMConfig, refuse: Any) -> None:
    for name in (f.name for f in fields(c) if f.name.endswith(("_token", "_token_id"))):
        value = getattr(c, name)
        if value is not None and not 0 <= value < c.vocab_size:
            refuse(f"{name} {value} is outside the vocabulary of {c.vocab_size}", "correct the id or vocab_size")
    if c.video_start_token == RELEASED_VIDEO_START_TOKEN:
        log.warning(
            "llm_config.video_start_token is 157159, which the released tokenizer calls '</image>'; "
            "prompts use the tokenizer's own id of '<video>'"
        )


def _parse_vision(tree: Mapping[str, Any]) -> VisionConfig:
    return build(VisionConfig, tree, "vision_config")


def _check_vision(c: VisionConfig) -> None:
    if c.hidden_size % c.num_heads or (c.hidden_size // c.num_heads) % 4:
        raise ConfigError(
            f"vision_config: hidden_size {c.hidden_size} with num_heads {c.num_heads} gives no head width that is a "
            "multiple of 4, which 2-D rotary positions need"
        )
    side = round(c.num_position_embeddings**0.5)
    if side * side != c.num_position_embeddings:
        raise ConfigError(f"vision_config: num_position_embeddings {c.num_position_embeddings} is no square number")
    if c.hidden_act != "gelu_pytorch_tanh":
        raise ConfigError(f"vision_config.hidden_act is {c.hidden_act!r}; only 'gelu_pytorch_tanh' is implemented")
    if c.spatial_merge_size != MERGE_SIZE:
        raise ConfigError(
            f"vision_config.spatial_merge_size is {c.spatial_merge_size}; positions and prompts need {MERGE_SIZE}"
        )
    bad = [i for i in c.deepstack_visual_indexes if not 0 <= i < c.depth]
    if bad:
        raise ConfigError(f"vision_config: deepstack_visual_indexes {bad} are outside the {c.depth} blocks")


def _parse_audio(tree: Mapping[str, Any]) -> AudioConfig | None:
    whisper = tree.get("whisper_encoder_config")
    if not isinstance(whisper, Mapping):
        raise ConfigError("audio_config: whisper_encoder_config missing; only the Whisper encoder is implemented")
    flat = dict(tree) | {"whisper_encoder_config": build(WhisperConfig, whisper, "whisper_encoder_config")}
    return build(AudioConfig, flat, "audio_config")


def _check_audio(c: AudioConfig) -> None:
    w = c.whisper_encoder_config
    if w.n_state % w.n_head:
        raise ConfigError(f"whisper_encoder_config: n_state {w.n_state} is not a multiple of n_head {w.n_head}")
    if w.n_state % 2:
        raise ConfigError(
            f"whisper_encoder_config: n_state {w.n_state} is odd; the position table has two equal halves"
        )
    if c.ds_kernel_size % 2 == 0 or c.ds_stride < 1:
        raise ConfigError(
            f"audio_config: ds_kernel_size {c.ds_kernel_size} with ds_stride {c.ds_stride}; "
            "the kernel must be odd and the stride positive"
        )
