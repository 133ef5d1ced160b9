"""The released geometry without the released weights: what `--load-format generated` serves by default.

A directory with the released configuration and a stand-in tokenizer, whose control tokens have the released ids and
whose other ids all have a spelling, so that prompts, lengths and streams behave as with the real one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.tiny.architecture import PREPROCESSOR
from engine.tiny.snapshot import default_cache_dir
from engine.tiny.vocabulary import SPECIAL_TOKENS, special_tokens_map, tokenizer_config, tokenizer_json

CONFIG: dict[str, Any] = {
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

FIRST_CONTROL_ID = 156891  # `<|startoftext|>`
NUM_RESERVED = 251  # `<|reserved_token_5|>` to `<|reserved_token_255|>`


def cut_layers(model: Path, num_layers: int, folder: Path) -> Path:
    """`folder`, made to hold the configuration and tokenizer of `model` with its first layers only; no weights.

    Raises:
        ConfigError: it has no configuration, or fewer layers.
    """
    try:
        tree = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{model / 'config.json'}: {error.strerror}") from error
    if num_layers > (most := tree["llm_config"]["num_hidden_layers"]):
        raise ConfigError(f"--layers {num_layers}: {model} has {most}")
    folder.mkdir()
    for path in model.glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copy(path, folder)
    tree["llm_config"]["num_hidden_layers"] = num_layers
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def ensure_geometry(cache_dir: Path | None = None) -> Path:
    """The directory of the released geometry, written first if it is not there (3 MB).

    Raises:
        ConfigError: the cache directory cannot be written.
    """
    cache = cache_dir or default_cache_dir()
    files = {name: json.dumps(content, ensure_ascii=False) for name, content in geometry_files().items()}
    digest = hashlib.sha256("".join(f"{name}{text}" for name, text in files.items()).encode()).hexdigest()
    target = cache / f"ming-flash-omni-2.0-generated-{digest[:12]}"
    try:
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            _install(target, files)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the released geometry in {cache} ({error.strerror}); "
            "choose another directory with --cache-dir or MING_EVAL_CACHE"
        ) from error
    return target


def geometry_files() -> dict[str, Any]:
    """Content of every file by name."""
    return {
        "config.json": CONFIG,
        "preprocessor_config.json": PREPROCESSOR,
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": tokenizer_config(control_ids()),
        "special_tokens_map.json": special_tokens_map(),
    }


def control_ids() -> dict[str, int]:
    """Control tokens at their released ids; the released vocabulary has more reserved ones than the embedded one."""
    first = SPECIAL_TOKENS.index("<|reserved_token_5|>")
    after = SPECIAL_TOKENS.index("<role>")
    reserved = (f"<|reserved_token_{n}|>" for n in range(5, 5 + NUM_RESERVED))
    tokens = (*SPECIAL_TOKENS[:first], *reserved, *SPECIAL_TOKENS[after:])
    return {token: FIRST_CONTROL_ID + n for n, token in enumerate(tokens)}


def _tokenizer() -> dict[str, Any]:
    """The embedded tokenizer with a made-up spelling, which no merge leads to, for every id that it lacks."""
    content = tokenizer_json(control_ids())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"\u0120#{i}": i for i in range(len(vocabulary), FIRST_CONTROL_ID)}
    return content


def _install(target: Path, files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as aside:
        fresh = Path(aside) / "geometry"
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_text(text + "\n", encoding="utf-8")
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first, and wrote the same
                raise
