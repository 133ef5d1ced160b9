"""`g_end_to_end`: preprocessed media through towers, prompt, scheduler and paged cache, as a request is served."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.config import Device
from engine.core.request import GenerationRequest, MediaInput, MediaKind, SamplingParams
from engine.goldens.compare import CaseResult, Tolerance, load_case
from engine.goldens.observe import Observations, observed
from engine.goldens.session import GoldenEngine
from engine.model_config import LLMConfig
from engine.models.observe import grids_of
from engine.models.positions import positions_from_spans

TOLERANCE = Tolerance(rtol=1e-3, atol=2e-4)


def run_end_to_end(folder: Path, device: Device = "cpu") -> CaseResult:
    """Every prompt of the case."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    for name in sorted({key.split(".")[0] for key in expected}):
        engine = GoldenEngine.load(folder, device)  # a new one each time: a feature cache would hide encoder calls
        mine = {key.removeprefix(name + "."): x for key, x in inputs.items() if key.startswith(name + ".")}
        want = {key: x for key, x in expected.items() if key.startswith(name + ".")}
        got = run_prompt(engine, mine, len(want[f"{name}.greedy.tokens"]))
        result.tensors({f"{name}.{key}": x for key, x in got.items()}, want, TOLERANCE)
    return result


def run_prompt(engine: GoldenEngine, inputs: dict[str, Tensor], num_tokens: int) -> dict[str, Tensor]:
    """Greedy generation for one prompt, with what the case stores of the way there."""
    ids = inputs["input_ids"][0].tolist()
    request = request_of(engine.model.cfg.llm, inputs, engine.next_id(), num_tokens)
    media = request.media
    with observed(engine.model) as seen, engine.recorded_logits() as steps:
        tokens = engine.run(request)
    got = seen.tensors(len(ids)) | features_by_kind(seen, media)
    spans = [(item.start, item.num_tokens, item.grid) for item in media]
    positions, delta = positions_from_spans(len(ids), spans)
    return got | {
        "position_ids": positions,
        "rope_delta": torch.tensor([[delta]]),
        "logits": engine.model.logits(got["final_norm"]),
        "greedy.tokens": torch.tensor(tokens),
        "greedy.logits": torch.cat(steps),
    }


def request_of(llm: LLMConfig, inputs: dict[str, Tensor], request_id: int, num_tokens: int) -> GenerationRequest:
    """The case's prompt as a greedy request."""
    media = tuple(sorted(media_of(llm, inputs), key=lambda item: item.start))
    ids = tuple(inputs["input_ids"][0].tolist())
    return GenerationRequest(request_id, ids, SamplingParams(num_tokens, temperature=0.0), media)


def media_of(llm: LLMConfig, inputs: dict[str, Tensor]) -> Iterator[MediaInput]:
    """The case's tensors as encoder chunks: an image, a frame pair or a clip each."""
    ids = inputs["input_ids"][0]
    if "pixel_values" in inputs:
        at = _placeholders(ids, llm.image_patch_token)
        yield from _pixel_chunks("image", inputs["pixel_values"], inputs["image_grid_thw"], at)
    if "pixel_values_videos" in inputs:
        at = _placeholders(ids, llm.video_patch_token)
        yield from _pixel_chunks("video", inputs["pixel_values_videos"], inputs["video_grid_thw"], at)
    if "audio_feats" in inputs:
        clips = torch.split(inputs["audio_feats"][0], inputs["audio_feats_lengths"][0].tolist())
        for clip, (start, count) in zip(clips, inputs["audio_placeholder_loc_lens"][0].tolist(), strict=True):
            yield _chunk("audio", start, count, None, clip)


def _placeholders(ids: Tensor, patch_token: int | None) -> Tensor:
    assert patch_token is not None, "a case with pixels names its patch tokens"
    return torch.eq(ids, patch_token).nonzero()[:, 0]


def _pixel_chunks(kind: MediaKind, pixels: Tensor, grids: Tensor, placeholders: Tensor) -> Iterator[MediaInput]:
    row = token = 0
    for t, h, w in grids_of(grids):
        patches, count = t * h * w, t * h * w // 4
        yield _chunk(kind, int(placeholders[token]), count, (t, h, w), pixels[row : row + patches])
        row, token = row + patches, token + count


def _chunk(kind: MediaKind, start: int, count: int, grid: tuple[int, int, int] | None, array: Tensor) -> MediaInput:
    data = array.contiguous().numpy().tobytes()
    return MediaInput(kind, start, count, grid, hashlib.sha256(data).digest(), tuple(array.shape), "float32", data)


def features_by_kind(seen: Observations, media: tuple[MediaInput, ...]) -> dict[str, Tensor]:
    """The towers' outputs, which come one chunk a call in prompt order, joined per kind of medium."""
    pixels = zip([m.kind for m in media if m.grid], seen.calls("vision_encoder"), strict=True)
    by_kind: dict[str, list[Tensor]] = {}
    for kind, features in pixels:
        by_kind.setdefault(f"{kind}_embeds", []).append(features)
    got = {name: torch.cat(parts) for name, parts in by_kind.items()}
    clips = [clip for call in seen.calls("audio_encoder") for clip in call]
    if clips:
        got["audio_embeds"] = torch.cat(clips)[None]
        got["audio_embeds_lengths"] = torch.tensor([[len(clip) for clip in clips]])
    return got
