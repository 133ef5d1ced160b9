"""`inspect` and `verify` of the speech part: talker, audio VAE, voices, and which encoder depth the weights fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import ConfigError
from engine.models.audio_vae import AudioVAE
from engine.models.talker import Talker
from engine.models.vae_encoder import num_encoder_layers
from engine.stages.encoder_depth import DepthReport, examine
from engine.stages.speaker_encoder import FILE as SPEAKER_ENCODER_FILE
from engine.stages.voices import INDEX_FILE, released_folders
from engine.talker_config import LLM_FOLDER, SpeechConfig, find_talker, load_speech_config
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import Plan, stored_tensors
from engine.weights.speech_load import no_vae, plan_talker, plan_vae


@dataclass(frozen=True, slots=True)
class SpeechInspection:
    """What the talker's directory holds. `depth` is None where the weights are not here to be looked at."""

    folder: Path
    config: SpeechConfig
    parameters: dict[str, int]
    num_tensors: int
    unused: tuple[str, ...]
    problems: list[str]
    has_weights: bool
    vae_source: Path | None
    voices: tuple[str, ...]
    has_speaker_encoder: bool
    depth: DepthReport | None

    @property
    def checked(self) -> str:
        """What the check of the tensors went by."""
        return "names and shapes" if self.has_weights else "names only, not every weight file is here"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        vae, talker = self.config.vae, self.config.talker
        return {
            "folder": str(self.folder),
            "sample_rate": vae.sample_rate,
            "samples_per_step": self.config.patch_samples,
            "solver_steps": talker.steps,
            "layers": talker.llm.num_hidden_layers,
            "parameters": self.parameters,
            "tensors": self.num_tensors,
            "vae_source": None if self.vae_source is None else str(self.vae_source),
            "voices": list(self.voices),
            "speaker_encoder": self.has_speaker_encoder,
            "unused_tensors": list(self.unused),
            "problems": self.problems,
            "encoder_depth": None if self.depth is None else _depth_json(self.depth),
        }

    def report(self) -> str:
        """For a terminal."""
        vae, talker = self.config.vae, self.config.talker
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        voices = ", ".join(self.voices) or "none: it speaks with no voice given"
        encoder = "here" if self.has_speaker_encoder else f"no {SPEAKER_ENCODER_FILE}: voices go by clip and transcript"
        lines = [
            f"{self.folder}",
            f"  talker      {talker.llm.num_hidden_layers} layers, hidden {talker.llm.hidden_size}, "
            f"{talker.steps} solver steps, {self.config.patch_s:.2f} s of {vae.sample_rate} Hz a step",
            f"  parameters  {sizes}",
            f"  audio VAE   {'not found' if self.vae_source is None else f'from {self.vae_source}'}",
            f"  voices      {voices}",
            f"  speakers    {encoder}",
        ]
        if self.depth is not None:
            lines += [f"  {'depth' if i == 0 else '':<12}{line}" for i, line in enumerate(str(self.depth).splitlines())]
        lines += [f"  unused      {name}" for name in self.unused[:8]]
        lines += [f"  problem     {problem}" for problem in self.problems]
        return "\n".join(lines)


def is_talker_alone(path: Path) -> bool:
    """Whether `path` is a talker's directory and no snapshot around one."""
    return find_talker(path) == path


def inspect_speech(path: Path) -> SpeechInspection | None:
    """The speech part of a snapshot, or of a talker's directory; None where there is none.

    Raises:
        ConfigError: a configuration file is missing or cannot be wired.
        WeightError: a file is damaged.
    """
    folder = find_talker(path)
    if folder is None:
        return None
    config = load_speech_config(folder)
    with torch.device("meta"):
        talker, vae = Talker(config.talker), AudioVAE(config.vae)
    stored, run = config.vae.encoder.num_hidden_layers, num_encoder_layers(config.vae, "released")
    talker_files, talker_plan = plan_talker(talker, folder)
    plans = plan_vae(vae, folder, range(run, stored))
    found: list[tuple[nn.Module, Checkpoint, Plan]] = [(talker, talker_files, talker_plan)]
    problems = list(_lacking(talker_plan))
    complete = bool(plans) and not plans[-1][1].missing
    if complete:
        found.append((vae, *plans[-1]))
    else:
        problems.append(no_vae(folder, plans))
    if not (folder / LLM_FOLDER / "tokenizer.json").is_file():
        problems.append(f"{LLM_FOLDER}/tokenizer.json is missing")
    has_weights = not any(files.missing_files() for _, files, _ in found)
    if has_weights:
        problems += [problem for model, files, plan in found for problem in _wrong_shapes(model, files, plan)]
    return SpeechInspection(
        folder=folder,
        config=config,
        parameters={"talker": _count(talker), "audio VAE": _count(vae)},
        num_tensors=sum(len(plan.assigned) for _, _, plan in found),
        unused=tuple(name for _, _, plan in found for name in plan.unexpected),
        problems=problems,
        has_weights=has_weights,
        vae_source=plans[-1][0].path if complete else None,
        voices=tuple(_voice_names(folder)),
        has_speaker_encoder=(folder / SPEAKER_ENCODER_FILE).is_file(),
        depth=examine(folder) if complete and has_weights else None,
    )


def _lacking(plan: Plan) -> Iterator[str]:
    if plan.missing:
        yield f"{len(plan.missing)} parameters of the talker are in no file: {', '.join(plan.missing[:4])}"


def _wrong_shapes(model: nn.Module, files: Checkpoint, plan: Plan) -> Iterator[str]:
    tensors = stored_tensors(model)
    for tensor in files.tensors():
        if tensor.name in plan.assigned:
            wanted = tuple(tensors[plan.assigned[tensor.name][1].parameter].shape)
            if tensor.shape != wanted:
                yield f"{tensor.name} is {tensor.shape}, the configuration wants {wanted}"


def _voice_names(folder: Path) -> list[str]:
    for data in released_folders(folder):
        try:
            tree = json.loads((data / INDEX_FILE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{data / INDEX_FILE}: not valid JSON ({error}); fetch the file again") from None
        return list(tree) if isinstance(tree, Mapping) else []
    return []


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _depth_json(depth: DepthReport) -> dict[str, Any]:
    return {
        "stored": depth.num_stored,
        "untouched": list(depth.untouched),
        "fits": depth.verdict,
    }
