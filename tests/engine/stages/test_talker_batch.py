"""Slots: what a segment's patches are does not depend on its neighbours; every segment ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.errors import InvalidRequest
from engine.models.talker import Talker
from engine.stages.noise import SeededNoise
from engine.stages.speak import Speaker
from engine.stages.talker_batch import (
    MAX_PATCHES,
    MIN_PATCHES,
    Guidance,
    Patch,
    Segment,
    TalkerBatch,
    check_prompt,
    patch_limit,
)
from tests.engine.speech import byte_encoder, load_tiny

pytestmark = pytest.mark.slow  # real processes, real files

MODEL = load_tiny()
TEXTS = ("Hello there.", "今天天气不错，我们出去走走吧。", "A third one, longer than the others by far.")
GUIDANCE = (Guidance(), Guidance(cfg=0.0), Guidance(4.5, 0.3, 2.5))


def segment(index: int, **changes: object) -> Segment:
    """A new segment with fresh noise: texts, guidance and seeds all differ."""
    speaker = Speaker(MODEL, byte_encoder(), guidance=GUIDANCE[index], seed=index)
    return replace(speaker.segment(TEXTS[index]), **changes)  # type: ignore[arg-type]


def run(batch: TalkerBatch, arrivals: Sequence[tuple[int, Segment]]) -> list[list[Patch]]:
    """Admit each segment before the step of its number; patches of each."""
    patches: list[list[Patch]] = [[] for _ in arrivals]
    owner: dict[int, int] = {}
    for step in range(200):
        for number, (at, new) in enumerate(arrivals):
            if at == step:
                owner[batch.admit(new)] = number
        for patch in batch.step():
            patches[owner[patch.slot]].append(patch)
    assert batch.num_free == batch.num_slots
    return patches


def latents(patches: Sequence[Patch]) -> Tensor:
    return torch.cat([patch.latents for patch in patches])


def test_a_slot_forgets_numbers_that_are_none() -> None:
    batch = TalkerBatch(MODEL.talker, 1)
    broken = segment(1)
    run(batch, [(0, replace(broken, prompt=torch.full_like(broken.prompt, math.nan), max_patches=2))])
    (patches,) = run(batch, [(0, segment(0))])
    assert torch.equal(latents(patches), latents(alone(0)))


class BreaksAtLast:
    """Noise that is none in the last of two patches: what follows from it is kept, and no host ever reads it."""

    def __init__(self) -> None:
        self._noise, self._left = SeededNoise(MODEL.config.talker, seed=1, segment=0), 2

    def draw(self) -> tuple[Tensor, Tensor]:
        self._left -= 1
        y0, sde = self._noise.draw()
        return (y0, sde) if self._left else (torch.full_like(y0, math.nan), sde)


def test_a_slot_forgets_numbers_that_nobody_saw_not_to_be_finite() -> None:
    """Why a slot is cleared whenever it is filled, and not only after a probability that is no number."""
    batch = TalkerBatch(MODEL.talker, 1)
    broken = segment(1, noise=BreaksAtLast(), max_patches=2)
    (seen,) = run(batch, [(0, broken)])
    assert all(math.isfinite(patch.stop_probability) for patch in seen)
    cache = batch.step_tensors.cache
    assert not cache.k.isfinite().all()
    assert len(segment(0).prompt) < len(broken.prompt), "what is left lies behind the next prompt, masked"
    (patches,) = run(batch, [(0, segment(0))])
    assert torch.equal(latents(patches), latents(alone(0)))


def alone(index: int) -> list[Patch]:
    return run(TalkerBatch(MODEL.talker, 1), [(0, segment(index))])[0]


@pytest.mark.parametrize("arrivals", [(0, 0, 0), (0, 3, 7), (5, 0, 1)])
def test_batched_equals_alone(arrivals: tuple[int, ...]) -> None:
    together = run(TalkerBatch(MODEL.talker, 4), [(at, segment(i)) for i, at in enumerate(arrivals)])
    for index, got in enumerate(together):
        want = alone(index)
        assert [patch.last for patch in got] == [patch.last for patch in want]
        torch.testing.assert_close(latents(got), latents(want), rtol=0, atol=5e-4)
        assert [p.stop_probability for p in got] == pytest.approx([p.stop_probability for p in want], abs=1e-4)


def test_a_slot_is_used_again_without_a_trace() -> None:
    batch = TalkerBatch(MODEL.talker, 1)
    run(batch, [(0, segment(2))])
    torch.testing.assert_close(latents(run(batch, [(0, segment(0))])[0]), latents(alone(0)), rtol=0, atol=5e-4)


def test_a_released_slot_leaves_the_others_alone() -> None:
    batch = TalkerBatch(MODEL.talker, 2)
    gone, kept = batch.admit(segment(1)), batch.admit(segment(0))
    got = [p for _ in range(3) for p in batch.step() if p.slot == kept]
    batch.release(gone)
    assert batch.num_free == 1
    while batch.num_free < 2:
        got += batch.step()
    assert {patch.slot for patch in got} == {kept}
    torch.testing.assert_close(latents(got), latents(alone(0)), rtol=0, atol=5e-4)


def test_the_lowest_slot_is_taken() -> None:
    batch = TalkerBatch(MODEL.talker, 3)
    assert [batch.admit(segment(0)) for _ in range(3)] == [0, 1, 2]
    batch.release(1)
    assert batch.admit(segment(0)) == 1
    assert batch.num_free == 0


def test_nothing_to_do_is_no_step() -> None:
    assert TalkerBatch(MODEL.talker, 2).step() == []


def with_stop_probability(monkeypatch: pytest.MonkeyPatch, probability: float) -> None:
    """Make the talker always, or never, want to stop."""
    monkeypatch.setattr(Talker, "stop_probability", lambda _self, hidden: torch.full((len(hidden),), probability))


def test_no_stop_before_the_twelfth_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    with_stop_probability(monkeypatch, 0.999)
    patches = alone(0)
    assert len(patches) == MIN_PATCHES == 12
    assert all(patch.stop_probability > 0.99 for patch in patches)
    assert [patch.last for patch in patches] == [False] * 11 + [True]


def test_a_talker_that_never_stops_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with_stop_probability(monkeypatch, 0.5)
    patches = run(TalkerBatch(MODEL.talker, 1), [(0, segment(0, max_patches=17))])[0]
    assert [patch.last for patch in patches] == [False] * 16 + [True]


def test_the_cache_bounds_prompt_and_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    with_stop_probability(monkeypatch, 0.5)
    prompt = segment(0).prompt
    batch = TalkerBatch(MODEL.talker, 1, max_len=len(prompt) + 20)
    patches = run(batch, [(0, segment(0, max_patches=MAX_PATCHES))])[0]
    assert len(patches) == 20
    assert patches[-1].last


def test_a_full_slot_does_not_disturb_those_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slot ends at the very end of its cache and is computed along while the second goes on."""
    with_stop_probability(monkeypatch, 0.0)
    full = segment(2)
    max_len = len(full.prompt) + MIN_PATCHES
    batch = TalkerBatch(MODEL.talker, 2, max_len=max_len)
    ended, going_on = run(batch, [(0, full), (0, segment(0, max_patches=20))])
    assert (len(ended), len(going_on)) == (MIN_PATCHES, 20)
    want = run(TalkerBatch(MODEL.talker, 1), [(0, segment(0, max_patches=20))])[0]
    torch.testing.assert_close(latents(going_on), latents(want), rtol=0, atol=5e-4)


def test_a_prompt_without_room_for_speech_is_refused() -> None:
    prompt = segment(0).prompt
    batch = TalkerBatch(MODEL.talker, 1, max_len=len(prompt) + MIN_PATCHES - 1)
    with pytest.raises(InvalidRequest, match=rf"has {len(prompt)} tokens, at most {len(prompt) - 1} fit"):
        batch.admit(segment(0))
    assert batch.num_free == 1
    check_prompt(2048 - 12)
    with pytest.raises(InvalidRequest):
        check_prompt(2048 - 11)


def test_patch_limit_by_hand() -> None:
    """100 characters take 36.4 s, 114 patches of 0.32 s; half as much again is 171."""
    assert patch_limit(100, 0.32) == 171
    assert patch_limit(1, 0.32) == 12
    assert patch_limit(1, 0.16) == math.ceil(math.ceil(2 / 0.16) * 1.5)
    assert patch_limit(100_000, 0.32) == 1000
    assert patch_limit(100, 0.32, slack=2.0) == 228


def test_a_seed_repeats_the_segment_and_another_does_not() -> None:
    first, again = alone(0), alone(0)
    assert torch.equal(latents(first), latents(again))
    other = segment(0, noise=SeededNoise(MODEL.config.talker, seed=0, segment=1))
    changed = run(TalkerBatch(MODEL.talker, 1), [(0, other)])[0]
    assert float((changed[0].latents - first[0].latents).abs().max()) > 0.1


def test_a_reference_clip_starts_the_history() -> None:
    """Short clips stand behind zeros, of long ones the end counts."""
    for length in (4, 12, 40):
        batch = TalkerBatch(MODEL.talker, 1)
        clip = torch.randn(length, 64, generator=torch.Generator().manual_seed(length))
        seen: list[Tensor] = []
        hook = MODEL.talker.cfm.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[1].clone()))
        try:
            batch.admit(segment(0, latents=clip))
            first = batch.step()[0].latents
            batch.step()
        finally:
            hook.remove()
        kept = clip[-12:]
        want = torch.cat((torch.zeros(12 - len(kept), 64), kept))
        assert torch.equal(seen[0][0], want)
        assert torch.equal(seen[1][0], torch.cat((want[4:], first)))


def test_bfloat16_runs_to_an_end() -> None:
    model = load_tiny(torch.bfloat16)
    speaker = Speaker(model, byte_encoder(), seed=1)
    patches = run(TalkerBatch(model.talker, 1), [(0, speaker.segment("Hello."))])[0]
    assert len(patches) >= MIN_PATCHES
    assert latents(patches).dtype == torch.float32
    assert bool(latents(patches).isfinite().all())
