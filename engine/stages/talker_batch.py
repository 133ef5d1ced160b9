"""Several talkers as one batch: each segment has a slot, and a step makes the next patch of every one of them.

A slot that is free or finished is computed along and its result thrown away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import SPEECH_SLACK
from engine.errors import InvalidRequest
from engine.models.talker import Talker
from engine.stages.noise import Noise
from engine.stages.recorder import Recorder, make_recorder
from engine.stages.talker_step import Start, TalkerStep

MAX_TOKENS = 2048  # prompt and patches of one segment, as released
MAX_PATCHES = 1000
MIN_PATCHES = 12  # no earlier stop is listened to
STOP_PROBABILITY = 0.5

S_PER_CHARACTER = 5818 / 16000  # the released guard against a talker that does not end
MIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """How the flow is solved: guidance strength (0: none), and noise that is added on the way (temperature 0: none)."""

    cfg: float = 2.0
    sigma: float = 0.25
    temperature: float = 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of the added noise per square root of time."""
        return self.sigma * math.sqrt(self.temperature)


@dataclass(frozen=True, slots=True)
class Segment:
    """What a slot starts from: prompt [L, D], latents of a reference clip [M, latent_dim] if there is one."""

    prompt: Tensor
    noise: Noise
    guidance: Guidance = Guidance()
    latents: Tensor | None = None
    max_patches: int = MAX_PATCHES


@dataclass(frozen=True, slots=True)
class Patch:
    """One step's result for one slot: float32 latents [P, latent_dim] on the device; after `last` the slot is free."""

    slot: int
    latents: Tensor
    stop_probability: float
    last: bool


@dataclass(slots=True)
class _Occupant:
    noise: Noise
    max_patches: int
    num_prompt_tokens: int
    spread: float
    num_patches: int = 0


def patch_limit(num_chars: int, patch_s: float, slack: float = SPEECH_SLACK) -> int:
    """Patches after which a segment of `num_chars` characters is ended, whatever the talker says."""
    expected_s = max(MIN_S, S_PER_CHARACTER * num_chars)
    return min(MAX_PATCHES, max(MIN_PATCHES, math.ceil(math.ceil(expected_s / patch_s) * slack)))


def check_prompt(num_tokens: int, max_len: int = MAX_TOKENS) -> None:
    """Refuse a prompt that leaves no room for speech.

    Raises:
        InvalidRequest: it does.
    """
    most = max_len - MIN_PATCHES
    if num_tokens > most:
        raise InvalidRequest(
            f"the prompt of one segment has {num_tokens} tokens, at most {most} fit; shorten the reference clip, its "
            "transcript or the instructions",
            param="input",
        )


class TalkerBatch:
    """`num_slots` talkers over one cache; without a recorder, the one that fits the device."""

    def __init__(
        self, talker: Talker, num_slots: int, max_len: int = MAX_TOKENS, recorder: Recorder | None = None
    ) -> None:
        self.talker = talker
        self.num_slots = num_slots  # segments that can be spoken at once
        self._occupants: dict[int, _Occupant] = {}
        recorder = recorder or make_recorder(talker.stop_head.weight.device)
        self.step_tensors = TalkerStep(talker, num_slots, max_len, recorder)

    @property
    def num_free(self) -> int:
        """Slots that `admit` can still give out."""
        return self.num_slots - len(self._occupants)

    @torch.inference_mode()
    def admit(self, segment: Segment) -> int:
        """Run the prompt and take the lowest free slot (there must be one); its first patch comes with the next step.

        Raises:
            InvalidRequest: the prompt is too long.
        """
        length, cache = len(segment.prompt), self.step_tensors.cache
        check_prompt(length, cache.max_len)
        slot = min(set(range(self.num_slots)) - self._occupants.keys())
        guidance = segment.guidance
        # Always, 25 MB as released: what the last patch of a segment left behind, nobody has looked at.
        cache.clear(slot)
        hidden = self.talker.prefill(segment.prompt, cache, slot)[-1:]
        history = _start_history(segment.latents, self.step_tensors.empty_history)
        self.step_tensors.start(slot, Start(hidden, history, length, guidance.cfg, guidance.spread))
        limit = min(segment.max_patches, MAX_PATCHES, cache.max_len - length)
        self._occupants[slot] = _Occupant(segment.noise, limit, length, guidance.spread)
        return slot

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Give a slot back before its last patch."""
        del self._occupants[slot]
        self.step_tensors.clear(slot)

    @torch.inference_mode()
    def step(self) -> list[Patch]:
        """The next patch of every occupied slot; none when all are free.

        On a GPU the latents may still be on their way when this returns.
        """
        if not self._occupants:
            return []
        num_rows = max(self._occupants) + 1
        y0, sde = self._draw(num_rows)
        active = torch.tensor([slot in self._occupants for slot in range(num_rows)])
        num_keys = max(o.num_prompt_tokens + o.num_patches for o in self._occupants.values()) + 1
        probabilities = self.step_tensors.stop_probabilities(num_rows)
        latents = self.step_tensors.advance(y0, sde, active, num_keys)
        return [self._finish(slot, latents[slot], probabilities[slot]) for slot in sorted(self._occupants)]

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Prepare all that a step can need; to be called while every slot is free."""
        self.step_tensors.warm_up()

    def _draw(self, num_rows: int) -> tuple[Tensor, Tensor | None]:
        """Every occupant's next noise: [B, P, M], and [steps, B, P, M] where someone's is used."""
        cfg = self.talker.cfg
        shape = (cfg.patch_size, cfg.flowmodel.in_channels)
        y0, sde = torch.zeros(num_rows, *shape), torch.zeros(cfg.steps, num_rows, *shape)
        for slot, occupant in self._occupants.items():
            y0[slot], sde[:, slot] = occupant.noise.draw()
        return y0, sde if any(occupant.spread for occupant in self._occupants.values()) else None

    def _finish(self, slot: int, latents: Tensor, stop_probability: float) -> Patch:
        occupant = self._occupants[slot]
        occupant.num_patches += 1
        stopped = occupant.num_patches >= MIN_PATCHES and stop_probability > STOP_PROBABILITY
        last = stopped or occupant.num_patches == occupant.max_patches
        if last:
            self.release(slot)
        return Patch(slot, latents, stop_probability, last)


def _start_history(latents: Tensor | None, empty: Tensor) -> Tensor:
    """The end of a reference clip, behind the zeros of `empty` if it is short."""
    if latents is None:
        return empty
    kept = latents[-len(empty) :]
    return torch.cat((empty[len(kept) :], kept))
