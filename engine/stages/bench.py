"""`python -m engine.stages.bench`: how fast the talker speaks, without a server or a checkpoint.

The released talker and VAE get generated weights, so what is said is noise, but every product has its released size
and a run has a given number of patches. A recorded run is first compared with a plain one on the same noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.source import command_line, source_commit
from engine.stages.generated import generate_model, released_config, tiny_config
from engine.stages.load import SpeechModel
from engine.stages.noise import SeededNoise
from engine.stages.recorder import CudaGraphs, Direct, Recorder
from engine.stages.talker_batch import Guidance, Segment, TalkerBatch
from engine.stages.vae_step import VAEStep
from engine.stages.waveform import Rendering, SegmentAudio, render

BATCH_SIZES = (1, 8)
REPEATS = 5
PROMPT_TOKENS = 128
REFERENCE_RTF = 0.14  # of the reference run, batch 1
CHECKED_PATCHES = 12
# Recorded and plain runs launch the same kernels on the same shapes; what is left is the order of sums.
MAX_RELATIVE_ERROR = 2e-2


@dataclass(frozen=True, slots=True)
class Speed:
    """One batch size; times are medians over the repeats.

    `rtf` is the wall time of all streams over the seconds of audio of one of them: below 1 every listener is served
    in time. `rtf_total` is over the audio of all. `first_audio_ms` is from before the prompts to the first samples on
    the host, with all streams starting at once.
    """

    batch: int
    recorded: bool
    patches: int
    audio_s: float
    rtf: float
    rtf_total: float
    wall_s: tuple[float, ...]
    first_audio_ms: float
    step_ms: float
    steps_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Check:
    """Recorded against plain on the same noise; errors are relative L2."""

    batch: int
    first_patch_error: float
    latents_error: float
    samples_error: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Share:
    """Where a step's time goes, each part alone, milliseconds."""

    batch: int
    patch_ms: float
    state_ms: float
    vae_ms: float


class Bench:
    """A model with the slots of one batch size, recorded or not."""

    def __init__(self, model: SpeechModel, batch: int, recorder: Recorder) -> None:
        self.model, self.num_streams = model, batch
        self.talkers = TalkerBatch(model.talker, batch, recorder=recorder)
        self.backbone = VAEStep(model.vae.decoder, batch, model.config.patch_columns, recorder)

    def run(self, num_patches: int) -> Run:
        """Speak in all slots at once, `num_patches` each."""
        began = time.perf_counter()
        for stream in range(self.num_streams):
            self.talkers.admit(_segment(self.model, stream, num_patches))
        audio = [SegmentAudio.start(self.model) for _ in range(self.num_streams)]
        latents, samples, first_s = [], [], None
        while self.talkers.num_free < self.num_streams:
            patches = self.talkers.step()
            renderings = [Rendering(audio[p.slot], p.latents, p.last) for p in patches]
            parts = render(self.model, renderings, self.backbone)
            if first_s is None and any(len(part) for part in parts):
                first_s = time.perf_counter() - began
            latents.append(torch.stack([p.latents for p in patches]))
            samples.append(parts)
        wall_s = time.perf_counter() - began
        assert len(latents) == num_patches
        assert first_s is not None
        whole = np.stack([np.concatenate(stream) for stream in zip(*samples, strict=True)])
        return Run(wall_s, first_s, torch.stack(latents), whole)


@dataclass(frozen=True, slots=True)
class Run:
    """Latents [patches, B, P, M] and samples [B, n] of one run, and how long it took."""

    wall_s: float
    first_s: float
    latents: Tensor
    samples: npt.NDArray[np.float32]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all right, 1 a recorded run differs from a plain one or is not finite, 2 no such device."""
    options = _parse(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: no usable GPU here; `python -m engine.stages.bench --device cpu --tiny` tries the script out",
            file=sys.stderr,
        )
        return 2
    device = torch.device(options.device)
    began = time.perf_counter()
    report = _describe(device, options)
    model = _model(device, options)
    report["setup_s"] = time.perf_counter() - began
    say = _printer(to_stderr=options.json == "-")
    for batch in options.batch:
        _measure(report, model, batch, options, say)
        if options.json not in (None, "-"):  # after every size: time on a GPU can end at any moment
            Path(options.json).write_text(_text(report), encoding="utf-8")
    report["total_s"] = time.perf_counter() - began
    if options.json == "-":
        sys.stdout.write(_text(report))
    elif options.json:
        Path(options.json).write_text(_text(report), encoding="utf-8")
    say(f"total {report['total_s']:.1f} s")
    return 0 if all(check["ok"] for check in report["checks"]) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.stages.bench",
        description="Real-time factor and time to first audio of the talker, with generated weights.",
        epilog="example: python -m engine.stages.bench --json talker.json",
    )
    parser.add_argument("--json", metavar="PATH", help="also write everything here; - is standard output")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small widths, to try the script out")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="bfloat16 on a GPU, else float32")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCH_SIZES), help="streams at once (1 8)")
    parser.add_argument("--patches", type=int, default=32, help="steps of a run, 0.32 s of audio each (32)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of which the median counts (5)")
    parser.add_argument("--commit", default=source_commit(), help="what to record where git does not know it")
    return parser.parse_args(argv)


def _model(device: torch.device, options: argparse.Namespace) -> SpeechModel:
    default = "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, options.dtype or default)
    return generate_model(tiny_config() if options.tiny else released_config(), device, dtype)


def _measure(
    report: dict[str, Any], model: SpeechModel, batch: int, options: argparse.Namespace, say: Callable[[str], None]
) -> None:
    """Check, then time: recorded, and once plain for comparison."""
    recorder = CudaGraphs() if options.device == "cuda" else Direct(pads=True)
    recorded, plain = Bench(model, batch, recorder), Bench(model, batch, Direct(pads=True))
    began = time.perf_counter()
    recorded.talkers.warm_up()
    recorded.backbone.warm_up()
    warm_up_s = time.perf_counter() - began
    check = _check(recorded, plain)
    report["checks"].append(asdict(check))
    say(
        f"batch {batch}: recorded = plain: {'yes' if check.ok else 'NO'} (first patch {check.first_patch_error:.1e}, "
        f"latents {check.latents_error:.1e}, samples {check.samples_error:.1e}); recording {warm_up_s:.1f} s"
    )
    for bench, is_recorded, repeats in ((recorded, True, options.repeats), (plain, False, 1)):
        speed = _speed(bench, options.patches, repeats, is_recorded)
        report["speeds"].append(asdict(speed) | {"warm_up_s": warm_up_s})
        say(_line(speed))
    share = _share(recorded, options.patches)
    report["shares"].append(asdict(share))
    parts = f"flow {share.patch_ms:.2f} ms, language model {share.state_ms:.2f} ms, VAE {share.vae_ms:.2f} ms"
    say(f"batch {batch}: {parts}")


def _check(recorded: Bench, plain: Bench) -> Check:
    got, want = recorded.run(CHECKED_PATCHES), plain.run(CHECKED_PATCHES)
    errors = (
        _relative(got.latents[0], want.latents[0]),
        _relative(got.latents, want.latents),
        _relative(torch.from_numpy(got.samples), torch.from_numpy(want.samples)),
    )
    finite = bool(got.latents.isfinite().all()) and bool(np.isfinite(got.samples).all())
    return Check(recorded.num_streams, *errors, ok=finite and max(errors) < MAX_RELATIVE_ERROR)


def _speed(bench: Bench, num_patches: int, repeats: int, recorded: bool) -> Speed:
    bench.run(CHECKED_PATCHES)  # not counted
    runs = [bench.run(num_patches) for _ in range(repeats)]
    wall_s = statistics.median(run.wall_s for run in runs)
    audio_s = num_patches * bench.model.config.patch_s
    steps_per_s = num_patches * bench.num_streams / wall_s
    return Speed(
        batch=bench.num_streams,
        recorded=recorded,
        patches=num_patches,
        audio_s=audio_s,
        rtf=wall_s / audio_s,
        rtf_total=wall_s / audio_s / bench.num_streams,
        wall_s=tuple(run.wall_s for run in runs),
        first_audio_ms=1e3 * statistics.median(run.first_s for run in runs),
        step_ms=1e3 * wall_s / num_patches,
        steps_per_s=steps_per_s,
        tokens_per_s=steps_per_s * bench.model.config.talker.patch_size,
    )


@torch.inference_mode()
def _share(bench: Bench, num_patches: int) -> Share:
    """Each part of a step in a loop of its own, at the number of keys in the middle of a run."""
    step, batch = bench.talkers.step_tensors, bench.num_streams
    decoder = bench.model.vae.decoder
    device, width = bench.model.device, decoder.decoder.cfg.hidden_size
    columns = torch.zeros(batch, bench.model.config.patch_columns, width, dtype=bench.model.dtype, device=device)
    windows = [decoder.start().window] * batch
    num_keys = PROMPT_TOKENS + num_patches // 2
    return Share(
        batch,
        patch_ms=_mean_ms(lambda: step.run_patch(batch), device),
        state_ms=_mean_ms(lambda: step.run_state(batch, num_keys), device),
        vae_ms=_mean_ms(lambda: bench.backbone(columns, windows), device),
    )


def _mean_ms(call: Callable[[], object], device: torch.device, times: int = 10) -> float:
    call()
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return 1e3 * (time.perf_counter() - began) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _segment(model: SpeechModel, stream: int, num_patches: int) -> Segment:
    """A prompt of random tokens; as long as one with a caption or a short reference clip."""
    config, device = model.config.talker, model.device
    generator = torch.Generator().manual_seed(stream)
    ids = torch.randint(config.llm.vocab_size, (PROMPT_TOKENS,), generator=generator)
    with torch.inference_mode():
        prompt = model.talker.embed(ids.to(device))
    return Segment(prompt, SeededNoise(config, seed=stream), Guidance(cfg=config.cfg_strength), max_patches=num_patches)


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def _describe(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": command_line("engine.stages.bench", sys.argv[1:]),
        "commit": options.commit,
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "geometry": "tiny" if options.tiny else "released",
        "dtype": options.dtype or ("bfloat16" if device.type == "cuda" else "float32"),
        "weights": "generated",
        "prompt_tokens": PROMPT_TOKENS,
        "solver_steps": 10,
        "reference_rtf": REFERENCE_RTF,
        "checks": [],
        "speeds": [],
        "shares": [],
    }


def _line(speed: Speed) -> str:
    how = "recorded" if speed.recorded else "plain"
    return (
        f"batch {speed.batch}, {how}: RTF {speed.rtf:.4f} (of all streams {speed.rtf_total:.4f}), first audio "
        f"{speed.first_audio_ms:.1f} ms, {speed.step_ms:.2f} ms a step, {speed.steps_per_s:.0f} steps/s, "
        f"{speed.tokens_per_s:.0f} latents/s"
    )


def _printer(to_stderr: bool) -> Callable[[str], None]:
    return lambda text: print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)


def _text(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
