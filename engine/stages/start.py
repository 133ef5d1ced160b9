"""Starting the speech side as the operator configured it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from engine.config import SpeechInfo, SpeechOptions
from engine.errors import ConfigError
from engine.inputs.tokenizer import Tokenizer
from engine.stages.load import load_speech
from engine.stages.loop import SpeechLoop
from engine.stages.manner import Cast
from engine.stages.prompt import check_markers
from engine.stages.speaker_encoder import find_speaker_encoder
from engine.stages.voices import load_voices
from engine.talker_config import LLM_FOLDER


def build_speech(options: SpeechOptions) -> tuple[SpeechLoop, SpeechInfo]:
    """Load talker, VAE, tokenizer and voices.

    Raises:
        ConfigError: configuration and machine do not fit together.
        WeightError: the checkpoint does not fill the models.
    """
    started_s = time.monotonic()
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # kernels and graphs go to the current one
    else:
        torch.set_num_threads(options.num_threads or max(1, (os.cpu_count() or 1) // 2))
    folder = Path(options.talker)
    model = load_speech(folder, device, encoder_depth=options.vae_encoder_layers)
    encoder = Tokenizer.load(folder / LLM_FOLDER)
    check_markers(encoder)
    speakers = find_speaker_encoder(folder, _path(options.speaker_encoder))
    voices = load_voices(model, folder, speakers, _path(options.voices))
    cast = Cast(model, encoder, voices, speakers, options.slack)
    loop = SpeechLoop(cast, options.num_slots, options.segments)
    if device.type == "cuda":
        loop.warm_up()
    info = SpeechInfo(
        sample_rate=model.config.vae.sample_rate,
        patch_samples=model.config.patch_samples,
        num_slots=options.num_slots,
        voices=tuple(cast.voices),
        default_voice=cast.default_voice,
        device=_name(device),
        dtype=str(model.dtype).removeprefix("torch."),
        load_s=time.monotonic() - started_s,
    )
    return loop, info


def pick_device(asked: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: this machine does not have it.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not num_gpus):
        return torch.device("cpu")
    index = int(asked.partition(":")[2] or 0)
    if index >= num_gpus:
        found = f"has {num_gpus} usable GPUs" if num_gpus else "has no usable GPU"
        raise ConfigError(f"--talker-device {asked}: this machine {found}; use cpu or auto")
    return torch.device("cuda", index)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
