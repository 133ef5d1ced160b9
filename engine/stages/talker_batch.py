"""Several talkers as one batch: each segment has a slot, and a step makes the next patch of every one of them.

All tensors have fixed shapes and stay where they are, so that a step over the first n slots is one CUDA graph for
each n. A slot that is free or finished is computed along and its result thrown away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import InvalidRequest
from engine.models.qwen2_memory import SlotCache
from engine.models.talker import Talker
from engine.stages.noise import Noise

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
    num_patches: int = 0


def patch_limit(num_chars: int, patch_s: float, slack: float = 1.5) -> int:
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
    """`num_slots` talkers over one cache."""

    def __init__(self, talker: Talker, num_slots: int, max_len: int = MAX_TOKENS) -> None:
        cfg, weight = talker.cfg, talker.stop_head.weight
        device = weight.device
        self.talker = talker
        self.cache = SlotCache(cfg.llm, num_slots, max_len, weight.dtype, device)
        self._occupants: dict[int, _Occupant] = {}
        width = cfg.flowmodel.in_channels
        self._hidden = torch.zeros(num_slots, 1, cfg.llm.hidden_size, dtype=weight.dtype, device=device)
        self._history = torch.zeros(num_slots, cfg.history_patch_size, width, device=device)
        self._positions = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._cfg = torch.zeros(num_slots, device=device)
        self._spread = torch.zeros(num_slots, device=device)

    @property
    def num_slots(self) -> int:
        """Segments that can be spoken at once."""
        return len(self._hidden)

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
        length = len(segment.prompt)
        check_prompt(length, self.cache.max_len)
        slot = min(set(range(self.num_slots)) - self._occupants.keys())
        self._hidden[slot] = self.talker.prefill(segment.prompt, self.cache, slot)[-1:]
        self._history[slot] = _start_history(segment.latents, self._history[slot])
        self._positions[slot] = length
        self._cfg[slot] = segment.guidance.cfg
        self._spread[slot] = segment.guidance.spread
        limit = min(segment.max_patches, MAX_PATCHES, self.cache.max_len - length)
        self._occupants[slot] = _Occupant(segment.noise, limit)
        return slot

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        """Give a slot back before its last patch."""
        del self._occupants[slot]
        self._positions[slot] = 0  # it may still be computed along, and must stay within the cache

    @torch.inference_mode()
    def step(self) -> list[Patch]:
        """The next patch of every occupied slot; none when all are free."""
        if not self._occupants:
            return []
        num_rows = max(self._occupants) + 1
        y0, sde = self._draw(num_rows)
        active = torch.tensor([slot in self._occupants for slot in range(num_rows)])
        latents, stop = self._advance(num_rows, y0, sde, active.to(self._hidden.device))
        probabilities = stop.tolist()
        return [self._finish(slot, latents[slot], probabilities[slot]) for slot in sorted(self._occupants)]

    def _draw(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Every occupant's next noise: [B, P, M] and [steps, B, P, M]."""
        cfg, device = self.talker.cfg, self._hidden.device
        shape = (cfg.patch_size, cfg.flowmodel.in_channels)
        y0, sde = torch.zeros(num_rows, *shape), torch.zeros(cfg.steps, num_rows, *shape)
        for slot, occupant in self._occupants.items():
            y0[slot], sde[:, slot] = occupant.noise.draw()
        return y0.to(device), sde.to(device)

    def _advance(self, num_rows: int, y0: Tensor, sde: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Patch, stop probability and next state of the first rows; only `active` ones keep the state."""
        hidden, history = self._hidden[:num_rows], self._history[:num_rows]
        positions = self._positions[:num_rows]
        latents = self.talker.cfm(hidden, history, y0, self._cfg[:num_rows], sde, self._spread[:num_rows])
        stop = self.talker.stop_probability(hidden)
        following = self.talker.decode(self.talker.aggregator(latents), self.cache, positions)
        keep = active[:, None, None]
        hidden.copy_(torch.where(keep, following, hidden))
        history.copy_(torch.where(keep, torch.cat((history[:, latents.shape[1] :], latents), dim=1), history))
        positions += active
        return latents, stop

    def _finish(self, slot: int, latents: Tensor, stop_probability: float) -> Patch:
        occupant = self._occupants[slot]
        occupant.num_patches += 1
        stopped = occupant.num_patches >= MIN_PATCHES and stop_probability > STOP_PROBABILITY
        last = stopped or occupant.num_patches == occupant.max_patches
        if last:
            self.release(slot)
        return Patch(slot, latents, stop_probability, last)


def _start_history(latents: Tensor | None, empty: Tensor) -> Tensor:
    """The end of a reference clip, behind zeros if it is short; zeros are latents like any other."""
    history = torch.zeros_like(empty)
    if latents is not None:
        kept = latents[-len(history) :]
        history[len(history) - len(kept) :] = kept
    return history
