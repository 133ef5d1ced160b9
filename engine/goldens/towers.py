"""Cases of the vision and audio towers, and of position ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.config import Device
from engine.goldens.compare import CaseResult, Tolerance, load_case, load_json
from engine.model_config import ModelConfig, load_model_config
from engine.models.audio_encoder import AudioEncoder
from engine.models.observe import run_audio, run_positions, run_vision
from engine.models.positions import PatchTokens
from engine.models.vision import VisionEncoder
from engine.parallel import TensorParallel
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import load_weights, present_components
from engine.weights.rules import AUDIO, VISION, Rules, Shard

TOLERANCE = Tolerance(rtol=1e-4, atol=2e-5)
EXACT = Tolerance(0.0, 0.0)


class Towers(nn.Module):
    """The towers that a case stores, under the names they have in the whole model."""

    def __init__(self, cfg: ModelConfig, present: Sequence[Rules]) -> None:
        super().__init__()
        width, depth = cfg.llm.hidden_size, cfg.mlp_depth
        if cfg.vision and VISION in present:
            self.vision_encoder = VisionEncoder(cfg.vision, width, depth)
        if cfg.audio and AUDIO in present:
            self.audio_encoder = AudioEncoder(cfg.audio, width, depth)


def load_towers(folder: Path, device: torch.device) -> Towers:
    """The case's towers in float32."""
    cfg = load_model_config(folder)
    checkpoint = Checkpoint(folder)
    present = present_components(checkpoint.files)
    towers = Towers(cfg, present).eval().requires_grad_(False)
    load_weights(towers, checkpoint, Shard(TensorParallel(), cfg.llm), present)
    return towers.to(device)


def run_vision_case(folder: Path, device: Device = "cpu") -> CaseResult:
    """`d_vision`: every stage of the tower and the projector."""
    return _run_case(folder, device, lambda towers, inputs: run_vision(towers.vision_encoder, inputs))


def run_audio_case(folder: Path, device: Device = "cpu") -> CaseResult:
    """`e_audio`: the released padded batch, and each clip on its own."""
    return _run_case(folder, device, lambda towers, inputs: run_audio(towers.audio_encoder, inputs))


def _run_case(
    folder: Path, device: Device, run: Callable[[Towers, Mapping[str, Tensor]], dict[str, Tensor]]
) -> CaseResult:
    result, on = CaseResult(folder.name), torch.device(device)
    inputs, expected = load_case(folder)
    result.tensors(run(load_towers(folder, on), {name: x.to(on) for name, x in inputs.items()}), expected, TOLERANCE)
    return result


def run_position_case(folder: Path) -> CaseResult:
    """`c_position_ids`: every sub-case matches, and differs from the layout other engines use."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    flags = load_json(folder / "cases.json") if (folder / "cases.json").is_file() else {}
    llm = load_json(folder / "config.json")["llm_config"]
    for name in sorted({key.split(".")[0] for key in expected}):
        prefix = name + "."
        mine = {key.removeprefix(prefix): x for key, x in inputs.items() if key.startswith(prefix)}
        want = {key.removeprefix(prefix): x for key, x in expected.items() if key.startswith(prefix)}
        wrong = {key: want.pop(key) for key in list(want) if key.startswith("WRONG_")}
        got = run_positions(_tokens(llm, flags.get(name, {})), mine)
        result.tensors({prefix + key: x for key, x in got.items()}, {prefix + key: x for key, x in want.items()}, EXACT)
        _refute(result, prefix, got, want, wrong)
    return result


def _tokens(llm: dict[str, int], flags: dict[str, int]) -> PatchTokens:
    names = ("image_start_token", "image_patch_token", "video_start_token", "video_patch_token")
    ids = {name: flags.get(name, llm[name]) for name in names}
    interleaved = flags.get("use_interleaved_frame_timestamp", llm.get("use_interleaved_frame_timestamp", True))
    return PatchTokens(**ids, use_interleaved_frame_timestamp=bool(interleaved))


def _refute(
    result: CaseResult,
    prefix: str,
    got: dict[str, torch.Tensor],
    want: dict[str, torch.Tensor],
    wrong: dict[str, torch.Tensor],
) -> None:
    """A wrong variant must not come out, unless the case itself stores the two as equal."""
    for key, tensor in wrong.items():
        right = key.rpartition(".")[2]
        if right == "position_ids" and not torch.equal(want[right], tensor):
            result.differs(f"{prefix}{right} != {key}", got[right], tensor)
