"""The state of all talkers in fixed tensors, and the step that makes the next patch of the first n of them.

Two parts are recorded: flow matching with the aggregator, by number of rows, and the language model with the stop
head, by number of rows and of keys. Neither waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.models.qwen2_memory import SlotCache
from engine.models.talker import Talker
from engine.stages.recorder import Recorder, pad, padded_sizes

KEY_SIZES = (256, 512, 1024)  # numbers of keys below the whole cache that a step may look at


@dataclass(frozen=True, slots=True)
class Start:
    """What a slot starts from after its prompt: state [1, D], history [H, M], position, strength and spread."""

    hidden: Tensor
    history: Tensor
    position: int
    cfg: float
    spread: float


class TalkerStep:
    """`num_slots` rows; a step over n of them may be rounded up to more, which `active` then leaves as they are."""

    def __init__(self, talker: Talker, num_slots: int, max_len: int, recorder: Recorder) -> None:
        cfg, weight = talker.cfg, talker.stop_head.weight
        device, width = weight.device, cfg.flowmodel.in_channels
        self._talker, self._recorder = talker, recorder
        self.cache = SlotCache(cfg.llm, num_slots, max_len, weight.dtype, device)
        self._row_sizes = padded_sizes(num_slots)
        self._key_sizes = (*(n for n in KEY_SIZES if n < max_len), max_len)
        self._hidden = torch.zeros(num_slots, 1, cfg.llm.hidden_size, dtype=weight.dtype, device=device)
        self._history = torch.zeros(num_slots, cfg.history_patch_size, width, device=device)
        self._positions = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._cfg = torch.zeros(num_slots, device=device)
        self._spread = torch.zeros(num_slots, device=device)
        self._stop = torch.zeros(num_slots, device=device)
        self._active = torch.zeros(num_slots, dtype=torch.bool, device=device)
        self._y0 = torch.zeros(num_slots, cfg.patch_size, width, device=device)
        self._sde = torch.zeros(cfg.steps, num_slots, cfg.patch_size, width, device=device)
        self._latents = torch.zeros_like(self._y0)
        self._feedback = torch.zeros_like(self._hidden)

    @property
    def empty_history(self) -> Tensor:
        """Zeros [H, M]: latents like any other."""
        return torch.zeros_like(self._history[0])

    def start(self, slot: int, start: Start) -> None:
        """Fill a slot; its keys and values are in the cache already."""
        self._hidden[slot] = start.hidden
        self._history[slot] = start.history
        self._positions[slot] = start.position
        self._cfg[slot] = start.cfg
        self._spread[slot] = start.spread
        self._stop[slot] = self._talker.stop_probability(start.hidden[None])[0]

    def clear(self, slot: int) -> None:
        """It may still be computed along, and must stay within the cache."""
        self._positions[slot] = 0

    def stop_probabilities(self, num_rows: int) -> list[float]:
        """Of the patches that the next step makes: they follow from the states that drive them."""
        return self._stop[:num_rows].tolist()

    def advance(self, y0: Tensor, sde: Tensor | None, active: Tensor, num_keys: int) -> Tensor:
        """Patches float32 [n, P, M] of the first n rows, from noise [n, P, M] and [steps, n, P, M] on the CPU.

        Only rows that are `active` (bool [n], CPU) go on; all stand below `num_keys`, counting the token to come.
        """
        num_rows = len(y0)
        self._y0[:num_rows].copy_(y0, non_blocking=True)
        if sde is not None:
            self._sde[:, :num_rows].copy_(sde, non_blocking=True)
        self._active.zero_()
        self._active[:num_rows].copy_(active, non_blocking=True)
        self.run_patch(num_rows, has_sde=sde is not None)
        self.run_state(num_rows, num_keys)
        return self._latents[:num_rows].clone()

    def warm_up(self) -> None:
        """Record every graph that speech needs; no row is active, so that nothing is changed."""
        self._active.zero_()
        for num_rows in self._row_sizes:
            for num_keys in self._key_sizes:
                self.run_patch(num_rows)
                self.run_state(num_rows, num_keys)

    def run_patch(self, num_rows: int, has_sde: bool = False) -> None:
        """Flow matching and aggregator on what the tensors hold."""
        if self._recorder.pads:
            num_rows = pad(num_rows, self._row_sizes)
        self._recorder.run(("patch", num_rows, has_sde), partial(self._make_patch, num_rows, has_sde))

    def run_state(self, num_rows: int, num_keys: int) -> None:
        """Language model and stop head on what the tensors hold."""
        if self._recorder.pads:
            num_rows, num_keys = pad(num_rows, self._row_sizes), pad(num_keys, self._key_sizes)
        else:
            num_keys = self.cache.max_len
        self._recorder.run(("state", num_rows, num_keys), partial(self._make_state, num_rows, num_keys))

    def _make_patch(self, num_rows: int, has_sde: bool) -> None:
        """From state and history to latents, to the next history, and to the next input of the language model."""
        hidden, history = self._hidden[:num_rows], self._history[:num_rows]
        sde = self._sde[:, :num_rows] if has_sde else None
        latents = self._talker.cfm(
            hidden, history, self._y0[:num_rows], self._cfg[:num_rows], sde, self._spread[:num_rows]
        )
        self._latents[:num_rows] = latents
        self._feedback[:num_rows] = self._talker.aggregator(latents)
        following = torch.cat((history[:, latents.shape[1] :], latents), dim=1)
        history.copy_(torch.where(self._active[:num_rows, None, None], following, history))

    def _make_state(self, num_rows: int, num_keys: int) -> None:
        """From the aggregated patch to the next state, and whether the patch that it drives is the last."""
        hidden, positions, active = self._hidden[:num_rows], self._positions[:num_rows], self._active[:num_rows]
        following = self._talker.decode(self._feedback[:num_rows], self.cache, positions, num_keys)
        hidden.copy_(torch.where(active[:, None, None], following, hidden))
        self._stop[:num_rows] = self._talker.stop_probability(hidden)
        positions += active
