"""Named intermediate results of the towers and positions, as the golden cases list them.

Modules are watched through forward hooks, so the code that is checked is the code that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from engine.models.audio_encoder import AudioEncoder
from engine.models.positions import Grid, PatchTokens, batch_positions
from engine.models.vision import VisionEncoder


@contextmanager
def record(
    model: nn.Module, outputs: Mapping[str, str], inputs: Mapping[str, str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect what submodules return while the context is open, later calls replacing earlier ones.

    `outputs` and `inputs` map a submodule's path to the name under which its result, or its first argument, is kept.
    """
    seen: dict[str, Tensor] = {}

    def keep_output(name: str) -> Any:
        return lambda _module, _args, output: seen.__setitem__(name, output)

    def keep_input(name: str) -> Any:
        return lambda _module, args: seen.__setitem__(name, args[0])

    handles: list[RemovableHandle] = []
    for path, name in outputs.items():
        handles.append(model.get_submodule(path).register_forward_hook(keep_output(name)))
    for path, name in (inputs or {}).items():
        handles.append(model.get_submodule(path).register_forward_pre_hook(keep_input(name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def grids_of(grid_thw: Tensor | None) -> list[Grid]:
    """Rows (t, h, w) of an integer tensor [n, 3] as plain numbers; none for None."""
    return [] if grid_thw is None else [(t, h, w) for t, h, w in grid_thw.tolist()]


@torch.inference_mode()
def run_vision(model: VisionEncoder, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every result of the vision case from its inputs (`pixel_values`, `grid_thw`)."""
    outputs = {
        "vision.patch_embed": "patch_embed",
        "vision.pos_embed": "pos_embed_interp",
        "vision.rotary_pos_emb": "rotary_freqs",
        "vision.merger": "merger",
        "linear_proj": "linear_proj",
    }
    outputs |= {f"vision.blocks.{i}": f"block.{i}" for i in range(len(model.vision.blocks))}
    with record(model, outputs, inputs={"vision.blocks.0": "after_pos_embed"}) as seen:
        seen["image_embeds"] = model(inputs["pixel_values"], grids_of(inputs["grid_thw"]))
    return seen


@torch.inference_mode()
def run_audio(model: AudioEncoder, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every result of the audio case: the released padded batch as `batch.*`, each clip alone as `clip{k}.*`."""
    lengths = inputs["audio_feats_lengths"][0].tolist()
    clips = list(inputs["audio_feats"][0, : sum(lengths)].split(lengths))
    results = _run_clips(model, clips, "batch.", padded=True)
    for k, clip in enumerate(clips):
        results |= _run_clips(model, [clip], f"clip{k}.", padded=False)
    return results


def _run_clips(model: AudioEncoder, clips: list[Tensor], prefix: str, padded: bool) -> dict[str, Tensor]:
    outputs = {"audio.conv2": "conv2", "audio.ln_post": "ln_post", "linear_proj_audio.0": "proj_conv"}
    outputs |= {f"audio.blocks.{i}": f"block.{i}" for i in range(len(model.audio.blocks))}
    with record(model, outputs, inputs={"audio.blocks.0": "after_pos_embed"}) as seen:
        features = model.encode_padded(clips) if padded else model.encode(clips)
    seen["audio_embeds"] = torch.cat(features)[None]
    seen["audio_embeds_lengths"] = torch.tensor([[len(rows) for rows in features]])
    return {prefix + name: tensor for name, tensor in seen.items()}


def run_positions(tokens: PatchTokens, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every result of one position sub-case from its inputs, names without the sub-case's prefix."""
    seconds = inputs.get("second_per_grid_ts")
    positions, deltas = batch_positions(
        inputs["input_ids"],
        tokens,
        grids_of(inputs.get("image_grid_thw")),
        grids_of(inputs.get("video_grid_thw")),
        inputs.get("attention_mask"),
        None if seconds is None else seconds.tolist(),
    )
    next_position = deltas + inputs["input_ids"].shape[1]
    return {"position_ids": positions, "rope_delta": deltas, "next_position": next_position}
