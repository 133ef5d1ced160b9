"""`f_preprocessing`: images, video and audio from decoded samples to what the towers take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.goldens.compare import CaseResult, Tolerance, load_case, load_json
from engine.inputs.audio import first_channel, preprocess_audio
from engine.inputs.image import (
    SizeOverrides,
    preprocess_image,
    processor_smart_resize,
    resize_image,
    smart_resize,
)
from engine.inputs.mel import mel_filters
from engine.inputs.processor_config import AudioProcessorConfig, ImageProcessorConfig
from engine.inputs.resample import resample
from engine.inputs.video import frame_times_s, preprocess_video, resize_frame, sample_frames, video_size

PIXELS = Tolerance(rtol=1e-5, atol=1e-5)
SAMPLES = Tolerance(rtol=0.0, atol=1e-5)
LOG_MEL = Tolerance(rtol=1e-4, atol=1e-4)
SECONDS = Tolerance(rtol=0.0, atol=1e-9)
GREY_LEVELS = Tolerance(rtol=0.0, atol=1.0)  # exact with the library versions of the case
EXACT = Tolerance(0.0, 0.0)

IMAGE, AUDIO = ImageProcessorConfig(), AudioProcessorConfig()
SAMPLE_RATE_HZ = 16_000


def run_preprocessing(folder: Path) -> CaseResult:
    """Every table and tensor of the case."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    tables = load_json(folder / "tables.json")
    got = _images(inputs) | _video(inputs, tables["video_source"]) | _audio(inputs, tables["waveform"])
    for name, want in expected.items():
        tolerance = _tolerance(name)
        if tolerance is GREY_LEVELS:
            result.tensors({name: got[name].float()}, {name: want.float()}, tolerance)
        else:
            result.tensors(got, {name: want}, tolerance)
    _check_tables(result, tables)
    return result


def _tolerance(name: str) -> Tolerance:
    if "resized" in name:
        return GREY_LEVELS
    if "timestamps" in name:
        return SECONDS
    if name.startswith(("pixel_values", "mel_filters")):
        return PIXELS
    return LOG_MEL if name == "audio_feats" else SAMPLES if name.startswith("waveform") else EXACT


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values))  # a copy: arrays made from images are read-only


def _images(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    got: dict[str, Tensor] = {}
    pixels, grids = [], []
    for k in range(sum(name.startswith("image.") for name in inputs)):
        image = Image.fromarray(inputs[f"image.{k}"].numpy())
        got[f"image.{k}.resized"] = _tensor(np.asarray(resize_image(image, IMAGE)))
        values, grid = preprocess_image(image, IMAGE)
        pixels.append(values)
        grids.append(grid)
    return got | {"pixel_values": _tensor(np.concatenate(pixels)), "image_grid_thw": torch.tensor(grids)}


def _video(inputs: dict[str, Tensor], source: dict[str, Any]) -> dict[str, Tensor]:
    sampling = sample_frames(source["src_frames"], source["src_fps"])
    size = SizeOverrides(resized_height=source["resized_height"], resized_width=source["resized_width"])
    frames = list(inputs["video.sampled_frames"].numpy())
    values, grid, times_s = preprocess_video(frames, sampling.fps, IMAGE, size)
    resized = [resize_frame(frame, (source["resized_height"], source["resized_width"])) for frame in frames]
    padded = resized + resized[-1:] * (-len(resized) % IMAGE.temporal_patch_size)
    return {
        "video.sampled_indices": torch.tensor(sampling.indices),
        "video.frames_resized_padded": _tensor(np.stack(padded).transpose(0, 3, 1, 2)),
        "video.frame_timestamps": torch.tensor(frame_times_s(len(frames), sampling.fps, IMAGE), dtype=torch.float64),
        "video.group_timestamps": torch.tensor(times_s, dtype=torch.float64),
        "pixel_values_videos": _tensor(values),
        "video_grid_thw": torch.tensor([grid]),
    }


def _audio(inputs: dict[str, Tensor], rates: dict[str, int]) -> dict[str, Tensor]:
    stereo = first_channel(inputs["waveform.1_stereo_int16"].numpy())
    clips = [
        preprocess_audio(inputs["waveform.0"].numpy(), rates["sr0"], AUDIO),
        preprocess_audio(inputs["waveform.1_stereo_int16"].numpy(), rates["sr1"], AUDIO),
    ]
    return {
        "waveform.1_normalised_16k": _tensor(resample(stereo, rates["sr1"], SAMPLE_RATE_HZ)),
        "audio_feats": _tensor(np.concatenate([mel for mel, _ in clips]))[None],
        "audio_feats_lengths": torch.tensor([[len(mel) for mel, _ in clips]]),
        "encoder_feats_lengths": torch.tensor([[count for _, count in clips]]),
        "mel_filters_128": _tensor(mel_filters(128)),
    }


def _check_tables(result: CaseResult, tables: dict[str, Any]) -> None:
    for row in tables.get("image_smart_resize", ()):
        result.equal(f"image_smart_resize {row['h']}x{row['w']}", list(smart_resize(row["h"], row["w"])), row["out"])
    for row in tables.get("image_processor_smart_resize", ()):
        got = list(processor_smart_resize(row["h"], row["w"]))
        result.equal(f"image_processor_smart_resize {row['h']}x{row['w']}", got, row["out"])
    for row in tables.get("video_resize", ()):
        got = list(video_size(row["h"], row["w"], row["num_frames"], IMAGE))
        result.equal(f"video_resize {row['h']}x{row['w']}x{row['num_frames']}", got, row["out"])
    for row in tables.get("video_sampling", ()):
        sampling = sample_frames(row["src_frames"], row["src_fps"])
        name = f"video_sampling {row['src_frames']} at {row['src_fps']}"
        result.equal(name, [list(sampling.indices), sampling.fps], [row["indices"], row["sampled_fps"]])
    for row in tables.get("audio_lengths", ()):
        name = f"audio_lengths {row['mel_frames']}"
        result.equal(name, AUDIO.num_tokens(row["mel_frames"]), row["tokens"])
