"""How many encoder layers a VAE's weights were trained with.

The released program runs 4 of the stored layers, other ports run all, and the latents have nothing in common. Two
things tell: layers that never ran still have their initial norms and biases; and only with the right depth does a clip
survive encoding and decoding.

`python -m engine.stages.encoder_depth TALKER_DIR --clip speech.wav`
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import EngineError, WeightError
from engine.inputs.audio_file import read_audio
from engine.inputs.resample import resample
from engine.models.vae_encoder import AGGREGATOR_LAYERS, EncoderDepth
from engine.stages.load import SpeechModel, load_speech
from engine.stages.voice import encode_clip
from engine.talker_config import find_talker, load_speech_config
from engine.weights.checkpoint import Checkpoint
from engine.weights.speech_load import find_vae
from engine.weights.speech_rules import VAE

CLEARLY = 0.8  # share of the other's distance below which a reconstruction is taken as the better one
_FRAME, _HOP, _FLOOR = 2048, 512, 1e-4


@dataclass(frozen=True, slots=True)
class DepthReport:
    """What was found: `untouched` layers beyond the released depth, and how far a clip's reconstruction is, in dB."""

    num_stored: int
    untouched: tuple[int, ...]
    distance_db: dict[EncoderDepth, float] = field(default_factory=dict)

    @property
    def verdict(self) -> EncoderDepth | None:
        """The depth that the weights fit, or None where nothing decides it."""
        if len(self.untouched) == max(0, self.num_stored - AGGREGATOR_LAYERS):
            return "released"
        if not self.distance_db:
            return None
        best, other = sorted(self.distance_db, key=self.distance_db.__getitem__)
        return best if self.distance_db[best] < CLEARLY * self.distance_db[other] else None

    def __str__(self) -> str:
        beyond = self.num_stored - AGGREGATOR_LAYERS
        if beyond <= 0:
            return f"{self.num_stored} encoder layers stored, all of them run"
        lines = [f"{self.num_stored} encoder layers stored, the released program runs {AGGREGATOR_LAYERS} of them"]
        lines.append(f"{len(self.untouched)} of the {beyond} others still have their initial norms and biases")
        lines += [f"reconstruction with depth {depth}: {db:.1f} dB off" for depth, db in self.distance_db.items()]
        undecided = "undecided" if self.distance_db else "undecided; a clip of clean speech decides it (--clip)"
        return "\n".join([*lines, f"the weights fit: {self.verdict or undecided}"])


def examine(folder: Path, clip: Tensor | None = None) -> DepthReport:
    """Look at the weights in talker directory `folder`, and with a clip [n] at the VAE's rate try both depths.

    Raises:
        EngineError: configuration or weights cannot be read.
    """
    num_stored = load_speech_config(folder).vae.encoder.num_hidden_layers
    report = DepthReport(num_stored, untouched_layers(folder, num_stored))
    if clip is None:
        return report
    depths: tuple[EncoderDepth, ...] = ("released", "all")
    distances = {depth: reconstruction_db(_load(folder, depth), clip) for depth in depths}
    return DepthReport(num_stored, report.untouched, distances)


def _load(folder: Path, depth: EncoderDepth) -> SpeechModel:
    return load_speech(folder, torch.device("cpu"), torch.float32, depth)


def untouched_layers(folder: Path, num_stored: int) -> tuple[int, ...]:
    """Layers beyond the released depth whose norms are all one and whose biases are all zero."""
    source = next(find_vae(folder), None)
    if source is None:
        raise WeightError(f"{folder}: no audio VAE in it or beside it")
    layers = range(AGGREGATOR_LAYERS, num_stored)
    return tuple(i for i in layers if _is_initial(source.checkpoint, f"encoder.encoder.layers.{i}."))


def _is_initial(checkpoint: Checkpoint, prefix: str) -> bool:
    initial = {"norm.weight": 1.0, "_proj.bias": 0.0}
    seen = False
    for tensor in checkpoint.tensors():
        name = VAE.unwrap(tensor.name)
        value = next((v for end, v in initial.items() if name.endswith(end)), None)
        if name.startswith(prefix) and value is not None:
            seen = True
            if not bool((tensor[:] == value).all()):
                return False
    return seen


@torch.inference_mode()
def reconstruction_db(model: SpeechModel, clip: Tensor) -> float:
    """How far the decoded latents of a clip are from it (see `spectral_distance_db`)."""
    latents = encode_clip(model, clip)
    decoded = model.vae.decoder(latents[None])[0]
    return spectral_distance_db(decoded[-len(clip) :].numpy(), clip.numpy())  # padding stands in front


def spectral_distance_db(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of the log spectra of two signals of one length [n], in dB; phases do not count."""
    difference = 20 * np.log10(_magnitudes(a) / _magnitudes(b))
    return float(np.sqrt(np.mean(difference**2)))


def _magnitudes(signal: np.ndarray) -> np.ndarray:
    padded = np.pad(signal.astype(np.float64), (0, max(0, _FRAME - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
    spectrum: np.ndarray = np.abs(np.fft.rfft(frames * np.hanning(_FRAME)))
    return spectrum + _FLOOR * _FRAME


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the weights fit the released depth, 1 when they do not or nothing decides it, 2 on error."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.stages.encoder_depth",
        description="Report how many encoder layers a VAE was trained with.",
    )
    parser.add_argument("path", type=Path, metavar="DIR", help="snapshot, or its talker/ directory")
    parser.add_argument("--clip", type=Path, metavar="WAV", help="clean speech to encode and decode with both depths")
    args = parser.parse_args(argv)
    try:
        folder = find_talker(args.path)
        if folder is None:
            raise WeightError(f"{args.path}: no talker in it; give a snapshot with talker/config.json")
        report = examine(folder, _read_clip(folder, args.clip) if args.clip else None)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.verdict == "released" else 1


def _read_clip(folder: Path, file: Path) -> Tensor:
    samples, rate_hz = read_audio(file.read_bytes(), "wav")
    return torch.from_numpy(resample(samples, rate_hz, load_speech_config(folder).vae.sample_rate))


if __name__ == "__main__":
    sys.exit(main())
