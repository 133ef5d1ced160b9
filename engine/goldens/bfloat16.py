"""Cases in bfloat16: no golden can be met there, so the error is held against that of plain PyTorch in bfloat16.

Both run the case's prompt and its released continuation with the released choice of experts: a near-tie that falls the
other way is no error of arithmetic. The continuation's experts are not stored; plain PyTorch in float32, which meets
the golden, says them. Ours runs as it serves: one prefill into the paged cache, then one token a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import Device
from engine.core.request import MediaInput
from engine.goldens.compare import CaseResult, Check, load_case
from engine.goldens.end_to_end import media_of
from engine.goldens.plain import WholeSequence, forced_choice, plain_logits
from engine.goldens.session import GoldenEngine
from engine.goldens.thinker import one_sequence
from engine.models.positions import positions_from_spans
from engine.models.thinker import Features

MOST_TIMES = 2.0  # our error may be that of plain PyTorch so many times
EXACT_ENOUGH = 1e-5  # relative L2 error of plain PyTorch in float32: what measures must be right itself


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt of `num_prompt` tokens with the tokens that follow it, and what the released code says of each.

    `given` [T, D] stands in for the prompt's embeddings. `logits` [T + n, V] are golden. `experts` ids [T, k] by layer.
    """

    name: str
    ids: Tensor
    num_prompt: int
    given: Tensor | None
    media: tuple[MediaInput, ...]
    positions: Tensor
    image_rows: Tensor | None
    audio_rows: Tensor | None
    experts: Mapping[int, Tensor]
    logits: Tensor


def run_bfloat16(folder: Path, device: Device = "cpu") -> CaseResult:
    """Relative L2 error of the logits, prompt and continuation each, at most twice that of plain PyTorch."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    exact = GoldenEngine.load(folder)
    served = GoldenEngine.load(folder, device, dtype="bfloat16")
    # The towers of the reference run no kernel either: its device is the CPU.
    plain = served if device == "cpu" else GoldenEngine.load(folder, dtype="bfloat16")
    for case in cases_of(exact, inputs, expected):
        found, experts = plain_logits(exact.model.model, _sequence(exact, case, case.experts))
        error = relative_l2(found, case.logits)
        result.checks.append(Check(f"{case.name}: plain float32", error <= EXACT_ENOUGH, error / EXACT_ENOUGH))
        reference = plain_logits(plain.model.model, _sequence(plain, case, experts))[0]
        _judge(result, case, serve(served, case, experts), reference)
    return result


def cases_of(engine: GoldenEngine, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[Case]:
    """The prompts of a case folder."""
    if "input_ids" in inputs:
        yield _thinker_case(engine, inputs, expected)
        return
    for name in sorted({key.split(".")[0] for key in expected}):
        mine, want = (_below(name, tensors) for tensors in (inputs, expected))
        media = tuple(sorted(media_of(engine.model.cfg.llm, mine), key=lambda item: item.start))
        spans = [(item.start, item.num_tokens, item.grid) for item in media]
        positions, delta = positions_from_spans(mine["input_ids"].shape[1], spans)
        image = _rows([item for item in media if item.kind != "audio"])  # frames go through the image gate
        audio = _rows([item for item in media if item.kind == "audio"])
        yield _case(name, mine["input_ids"][0], None, media, positions, delta, image, audio, want)


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is stored under `name.`, without that."""
    return {key.removeprefix(name + "."): x for key, x in tensors.items() if key.startswith(name + ".")}


def _rows(media: list[MediaInput]) -> Tensor | None:
    """The placeholders' rows."""
    rows = [row for item in media for row in range(item.start, item.start + item.num_tokens)]
    return torch.tensor(rows) if rows else None


def _thinker_case(engine: GoldenEngine, inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> Case:
    ids = inputs["input_ids"][0]
    positions, delta = engine.positions(ids, inputs.get("image_grid_thw"))
    image, audio = (inputs[n][0].nonzero()[:, 0] if n in inputs else None for n in ("image_mask", "audio_mask"))
    given = inputs["inputs_embeds"][0] if "inputs_embeds" in inputs else None
    return _case("prompt", ids, given, (), positions, delta, image, audio, expected)


def _case(
    name: str,
    ids: Tensor,
    given: Tensor | None,
    media: tuple[MediaInput, ...],
    positions: Tensor,
    delta: int,
    image: Tensor | None,
    audio: Tensor | None,
    expected: dict[str, Tensor],
) -> Case:
    """Case b stores the logits behind each token, the others those from which each was taken."""
    if "decode.tokens" in expected:
        tokens, behind = expected["decode.tokens"], expected["decode.logits"]
    else:
        tokens, behind = expected["greedy.tokens"][:-1], expected["greedy.logits"][1:]
    more = torch.arange(len(ids), len(ids) + len(tokens)) + delta
    experts = {int(k.split(".")[1]): x for k, x in expected.items() if k.endswith("topk_ids")}
    return Case(
        name=name,
        ids=torch.cat((ids, tokens)),
        num_prompt=len(ids),
        given=given,
        media=media,
        positions=torch.cat((positions, more.expand(3, -1)), dim=1),
        image_rows=image,
        audio_rows=audio,
        experts=experts,
        logits=torch.cat((expected["logits"], behind)),
    )


@torch.inference_mode()
def _embeddings(engine: GoldenEngine, case: Case) -> Tensor:
    """Of every token, media features included, in the engine's dtype."""
    features = []
    for item in case.media:
        values = _features(engine, item)
        rows = torch.arange(item.start, item.start + len(values), device=engine.device)
        features.append(Features(rows, values))
    found = engine.model.embed(case.ids.to(engine.device), features)
    if case.given is not None:
        found[: len(case.given)] = case.given.to(found)
    return found


def _features(engine: GoldenEngine, item: MediaInput) -> Tensor:
    """One medium through its tower, [n, D]."""
    dtype = engine.model.model.word_embeddings.weight.dtype
    array = torch.frombuffer(bytearray(item.data), dtype=torch.float32).view(item.shape).to(engine.device, dtype)
    if item.grid is None:
        return engine.model.encode_audio([array])[0]
    return engine.model.encode_pixels([array], [item.grid])[0]


def _sequence(engine: GoldenEngine, case: Case, experts: Mapping[int, Tensor]) -> WholeSequence:
    image, audio = (None if rows is None else rows.to(engine.device) for rows in (case.image_rows, case.audio_rows))
    return WholeSequence(_embeddings(engine, case), case.positions.to(engine.device), image, audio, experts)


@torch.inference_mode()
def serve(engine: GoldenEngine, case: Case, experts: Mapping[int, Tensor]) -> Tensor:
    """Logits [T + n, V] as a request gets them: one prefill, then a token a step through the paged cache."""
    embeddings = _embeddings(engine, case)
    bounds = [0, *range(case.num_prompt, len(case.ids) + 1)]
    found = []
    for start, end in pairwise(bounds):
        media = (case.image_rows, case.audio_rows) if start == 0 else (None, None)
        batch = one_sequence(engine, case.positions[:, start:end], start, *media)
        with forced_experts(engine, {i: ids[start:end] for i, ids in experts.items()}):
            hidden = engine.model(embeddings[start:end].clone(), batch, engine.caches)
        found.append(engine.model.logits(hidden))
    return torch.cat(found)


@contextmanager
def forced_experts(engine: GoldenEngine, experts: Mapping[int, Tensor]) -> Iterator[None]:
    """Take `experts` [T, k] by layer wherever a router chooses others; what it chooses rightly stays as it is."""
    layers: Any = engine.model.model.layers
    handles = [layers[i].mlp.router.register_forward_hook(_force(ids.to(engine.device))) for i, ids in experts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _force(ids: Tensor) -> Any:
    def hook(router: Any, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, batch = args
        other = (out[0].sort(dim=1).values != ids).any(dim=1, keepdim=True)
        weights = forced_choice(router, x, ids, batch.image_rows, batch.audio_rows)
        return torch.where(other, ids, out[0]), torch.where(other, weights, out[1])

    return hook


def _judge(result: CaseResult, case: Case, served: Tensor, reference: Tensor) -> None:
    for part, rows in (("logits", slice(case.num_prompt)), ("continuation", slice(case.num_prompt, None))):
        ours, theirs = (relative_l2(x[rows], case.logits[rows]) for x in (served, reference))
        times = ours / theirs
        detail = f"{ours:.2e}, plain PyTorch {theirs:.2e}"
        result.checks.append(Check(f"{case.name}: {part}", times <= MOST_TIMES, times / MOST_TIMES, detail))


def relative_l2(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|; NaN where anything is."""
    return float((got.cpu().double() - want.double()).norm() / want.double().norm())
