"""`e2e_talker`: prompt, generation and waveform of whole segments, alone and as one batch, with the case's noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.goldens.compare import CaseResult, Tolerance, load_case, load_json
from engine.goldens.speech_text import ByteEncoder
from engine.models.vae_encoder import pad_to_patches
from engine.stages.load import SpeechModel, load_speech
from engine.stages.prompt import build_prompt, pieces
from engine.stages.silence import SilenceHold
from engine.stages.speak import Speaker
from engine.stages.talker_batch import MAX_PATCHES, Guidance, Patch, Segment, TalkerBatch
from engine.stages.voice import ZERO_SPEAKER, Voice, encode_clip, make_voice
from engine.stages.waveform import Rendering, SegmentAudio, render

PROMPT = Tolerance(0.0, 2e-5)
STATE = Tolerance(0.0, 5e-4)
PROBABILITY = Tolerance(0.0, 1e-4)
WAVEFORM = Tolerance(0.0, 1e-3)

_TOLERANCES = {"prompt": PROMPT, "speaker": PROMPT, "stop": PROBABILITY, "waveform": WAVEFORM}

Tensors = dict[str, Tensor]


@dataclass
class StoredNoise:
    """The case's noise, step by step."""

    y0: Tensor  # [K, 1, P, M]
    sde: Tensor  # [K, steps, 1, P, M]
    step: int = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next step's."""
        self.step += 1
        return self.y0[self.step - 1, 0], self.sde[self.step - 1, :, 0]


@dataclass
class Trace:
    """What the talker computed, step after step: tensors of all slots."""

    hidden: list[Tensor] = field(default_factory=list)
    history: list[Tensor] = field(default_factory=list)
    feedback: list[Tensor] = field(default_factory=list)


@contextmanager
def traced(batch: TalkerBatch) -> Iterator[Trace]:
    """Record every step of a batch while the context is open."""
    trace = Trace()

    def before(_module: object, args: tuple[Tensor, ...]) -> None:
        trace.hidden.append(args[0].clone())
        trace.history.append(args[1].clone())

    handles = [
        batch.talker.cfm.register_forward_pre_hook(before),
        batch.talker.aggregator.register_forward_hook(lambda _m, _args, out: trace.feedback.append(out)),
    ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def run_talker(folder: Path) -> CaseResult:
    """Every run of the case alone with all its stages, then all of them as one batch."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    request = load_json(folder / "request.json")
    model = load_speech(folder / "talker", torch.device("cpu"), torch.float32)
    encoder = ByteEncoder(request["tokenizer"]["special"])
    got = _reference_clip(model, inputs)
    segments = {}
    for name, case in request["cases"].items():
        asked = request | case
        speaker = _speaker(model, encoder, _voice(model, inputs, asked), name, asked)
        _check_prompt(result, name, speaker, asked, inputs)
        segments[name] = segment = _segment(speaker, asked["text"], _noise(inputs, name, model))
        got |= _run_alone(model, name, segment)
    for name, want in expected.items():
        tolerance = _TOLERANCES.get(name.split("/")[-1].split("_")[0], STATE)
        result.tensors(got, {name: want}, tolerance)
    result.tensors(_run_together(model, inputs, segments), _batched(expected, segments), STATE)
    return result


def _check_prompt(result: CaseResult, name: str, speaker: Speaker, asked: Mapping[str, Any], inputs: Tensors) -> None:
    """The strings that are encoded (the case also lists markers that the released code looks up), and the ids."""
    text = asked["text"]
    said = {piece for piece, _ in pieces(text, speaker.prompt)}
    result.equal(f"{name}/encode_calls", said, set(asked["encode_calls"][name]["encode_calls_in_order"]))
    ids = build_prompt(speaker.encoder, text, speaker.prompt).ids
    result.equal(f"{name}/input_ids", list(ids), inputs[f"{name}/input_ids"][0].tolist())


def _voice(model: SpeechModel, inputs: Tensors, asked: Mapping[str, Any]) -> Voice:
    is_cloned = bool(asked.get("prompt_wav"))
    speakers = inputs["speaker_embedding"] if asked.get("speakers") else None
    return make_voice(
        model,
        ZERO_SPEAKER if asked.get("zero_speaker") else speakers,
        inputs["prompt_wav"][0] if is_cloned else None,
        asked.get("prompt_text") if is_cloned else None,
        _clip_noise(inputs),
    )


def _clip_noise(inputs: Tensors) -> Tensor | None:
    return inputs["prompt_eps"][0] if "prompt_eps" in inputs else None


def _reference_clip(model: SpeechModel, inputs: Tensors) -> Tensors:
    """What is taken from the case's clip and speaker vectors, whichever of its runs use them."""
    got: Tensors = {}
    if "speaker_embedding" in inputs:
        got["speaker_projected"] = model.talker.project_speakers(inputs["speaker_embedding"])
    if "prompt_wav" in inputs:
        latents = encode_clip(model, inputs["prompt_wav"][0], _clip_noise(inputs))
        got["prompt_wav_padded"] = pad_to_patches(inputs["prompt_wav"], model.config.patch_samples)
        got["prompt_wav_latents"] = latents[None]
        got["prompt_wav_embeds"] = model.talker.aggregate(latents)[None]
    return got


def _speaker(model: SpeechModel, encoder: ByteEncoder, voice: Voice, name: str, asked: Mapping[str, Any]) -> Speaker:
    instruction = asked.get("instruction")
    if instruction is True:  # kept once for the case, under the name of the run
        instruction = asked[f"instruction_{name}"]
    guidance = Guidance(asked["cfg"], asked["sigma"], asked["temperature"])
    return Speaker(model, encoder, voice, instruction or None, guidance, task=asked["prompt"])


def _segment(speaker: Speaker, text: str, noise: StoredNoise) -> Segment:
    """Ends with the stored noise at the latest; stop probabilities are compared at every step."""
    return replace(speaker.segment(text), noise=noise, max_patches=min(MAX_PATCHES, len(noise.y0)))


def _noise(inputs: Tensors, name: str, model: SpeechModel) -> StoredNoise:
    """Noise of the stochastic solver is stored only where it is used."""
    y0 = inputs[f"{name}/noise_y0"]
    unused = torch.zeros(len(y0), model.config.talker.steps, *y0.shape[1:])
    return StoredNoise(y0, inputs.get(f"{name}/noise_sde", unused))


def _run_alone(model: SpeechModel, name: str, segment: Segment) -> Tensors:
    """One segment, with what the case stores of the way, under the case's names."""
    batch = TalkerBatch(model.talker, num_slots=1)
    with traced(batch) as trace:
        patches = _generate(batch, [segment])[0]
    latents = torch.cat([patch.latents for patch in patches])[None]
    stop = torch.tensor([patch.stop_probability for patch in patches])
    got = {
        "prompt_embeds": segment.prompt[None],
        "llm_hidden": torch.cat(trace.hidden, dim=1),
        "latents": latents,
        "feedback_embeds": torch.cat(trace.feedback, dim=1),
        "stop_probs": torch.stack((1 - stop, stop), dim=1),
        "num_patches": torch.tensor(len(patches)),
        "history_first": trace.history[0],
        "history_last": trace.history[-1],
    }
    return {f"{name}/{key}": value for key, value in (got | _sound(model, latents, patches)).items()}


def _generate(batch: TalkerBatch, segments: list[Segment]) -> list[list[Patch]]:
    """Patches of segments that are spoken at the same time."""
    patches: dict[int, list[Patch]] = {batch.admit(segment): [] for segment in segments}
    while batch.num_free < batch.num_slots:
        for patch in batch.step():
            patches[patch.slot].append(patch)
    return list(patches.values())


def _sound(model: SpeechModel, latents: Tensor, patches: list[Patch]) -> Tensors:
    whole = model.vae.decoder(latents)
    audio = SegmentAudio.start(model)
    parts = [render(model, [Rendering(audio, patch.latents, patch.last)])[0] for patch in patches]
    hold = SilenceHold.at(model.config.vae.sample_rate)
    return {
        "waveform_offline": whole,
        "waveform_offline_trimmed": torch.from_numpy(hold.push(whole[0].numpy(), last=True))[None],
        "waveform_stream_trimmed": torch.from_numpy(np.concatenate(parts))[None],
        "stream_chunk_samples": torch.tensor([len(part) for part in parts]),
    }


def _run_together(model: SpeechModel, inputs: Tensors, segments: Mapping[str, Segment]) -> Tensors:
    """Latents of all runs from one batch."""
    batch = TalkerBatch(model.talker, num_slots=len(segments))
    again = [replace(segment, noise=_noise(inputs, name, model)) for name, segment in segments.items()]
    together = _generate(batch, again)
    return {
        f"{name}/latents in a batch": torch.cat([patch.latents for patch in patches])[None]
        for name, patches in zip(segments, together, strict=True)
    }


def _batched(expected: Tensors, segments: Mapping[str, Segment]) -> Tensors:
    return {f"{name}/latents in a batch": expected[f"{name}/latents"] for name in segments}
