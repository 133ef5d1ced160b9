"""Cases of the thinker alone: text only, and with image and audio gates."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.config import Device
from engine.core.request import GenerationRequest, SamplingParams
from engine.goldens.compare import CaseResult, Tolerance, load_case
from engine.goldens.observe import observed
from engine.goldens.session import GoldenEngine
from engine.kernels.paged_attention import PagedLayout
from engine.layers.batch import Batch

TOLERANCE = Tolerance(rtol=1e-4, atol=5e-5)


def run_text(folder: Path, device: Device = "cpu") -> CaseResult:
    """`a_thinker_text`: every intermediate of a prefill, then greedy tokens through the scheduler and paged cache."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    engine = GoldenEngine.load(folder, device)
    ids = inputs["input_ids"][0]
    positions = torch.arange(len(ids)).expand(3, -1).contiguous()
    got = prefill(engine, engine.model.embed(ids.to(engine.device)), positions, None, None)
    got |= {"position_ids": positions, "rope.inv_freq": engine.model.model.rotary_emb.inv_freq}
    tokens, logits = generate(engine, ids.tolist(), len(expected["greedy.tokens"]))
    got |= {"greedy.tokens": tokens, "greedy.logits": logits}
    result.tensors(got, expected, TOLERANCE)
    return result


def run_multirouter(folder: Path, device: Device = "cpu") -> CaseResult:
    """`b_thinker_multirouter`: mixed routing with 3-D positions; decode uses the text gate alone."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    text_only = expected.pop("text_router_only.logits")
    engine = GoldenEngine.load(folder, device)
    embeddings, positions = inputs["inputs_embeds"][0], expected["position_ids"]
    image, audio = (inputs[name][0].nonzero()[:, 0] for name in ("image_mask", "audio_mask"))
    ids = inputs["input_ids"][0]
    computed, delta = engine.positions(ids, inputs["image_grid_thw"])
    got = prefill(engine, embeddings, positions, image, audio)
    got |= {"position_ids": computed, "rope_delta": torch.tensor([[delta]])}
    first = int(got["logits"][-1].argmax())
    tokens, logits = decode(engine, len(ids), delta, first, len(expected["decode.tokens"]))
    result.tensors(got | {"decode.tokens": tokens, "decode.logits": logits}, expected, TOLERANCE)
    result.differs("logits != text_router_only.logits", got["logits"], text_only)
    ignoring = prefill(engine, embeddings, positions, None, None)["logits"]
    result.tensors({"text_router_only.logits": ignoring}, {"text_router_only.logits": text_only}, TOLERANCE)
    return result


@torch.inference_mode()
def prefill(
    engine: GoldenEngine, embeddings: Tensor, positions: Tensor, image: Tensor | None, audio: Tensor | None
) -> dict[str, Tensor]:
    """One whole prompt in the first cache blocks, with the intermediates under the cases' names."""
    batch = one_sequence(engine, positions, 0, image, audio)
    with observed(engine.model) as seen:
        hidden = engine.model(embeddings.to(engine.device, copy=True), batch, engine.caches)
    return seen.tensors() | {"logits": engine.model.logits(hidden)}


@torch.inference_mode()
def decode(engine: GoldenEngine, start: int, delta: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Greedy continuation after a prefill: `count` tokens, the first given, and the logits after feeding each."""
    tokens, logits = [first], []
    for step in range(count):
        positions = torch.full((3, 1), start + step + delta)
        batch = one_sequence(engine, positions, start + step, None, None)
        hidden = engine.model(
            engine.model.embed(torch.tensor([tokens[-1]], device=engine.device)), batch, engine.caches
        )
        logits.append(engine.model.logits(hidden)[0])
        tokens.append(int(logits[-1].argmax()))
    return torch.tensor(tokens[:count]), torch.stack(logits)


def one_sequence(
    engine: GoldenEngine, positions: Tensor, start: int, image: Tensor | None, audio: Tensor | None
) -> Batch:
    """A batch of one sequence that owns the leading cache blocks."""
    count = positions.shape[1]
    end = start + count
    on = engine.device
    blocks = torch.arange(-(-end // engine.block_size), device=on)
    layout = PagedLayout(blocks[None], torch.tensor([end], device=on), int(count == 1), (0, count), (end,))
    image, audio = (None if rows is None else rows.to(on) for rows in (image, audio))
    return Batch(positions.to(on), torch.arange(start, end, device=on), layout, image, audio)


def generate(engine: GoldenEngine, prompt: list[int], count: int) -> tuple[Tensor, Tensor]:
    """Greedy tokens through the scheduler, and the float32 logits from which each was taken."""
    sampling = SamplingParams(max_tokens=count, temperature=0.0)
    with engine.recorded_logits() as logits:
        tokens = engine.run(GenerationRequest(engine.next_id(), tuple(prompt), sampling))
    return torch.tensor(tokens), torch.cat(logits)
