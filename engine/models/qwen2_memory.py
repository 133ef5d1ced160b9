"""What a Qwen2 decoder remembers: slots of a fixed size for the talker, a sliding window for the audio VAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.talker_config import Qwen2Config


class SlotCache:
    """Keys and values of `num_slots` sequences of up to `max_len` tokens, [layers, slots, K, max_len, C].

    Sequences never move and shapes never change, so that a decode step can be recorded as a CUDA graph.
    """

    def __init__(
        self, cfg: Qwen2Config, num_slots: int, max_len: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (cfg.num_hidden_layers, num_slots, cfg.num_key_value_heads, max_len, cfg.head_dim)
        # Zeroed: a masked key still enters products, so it must hold a finite number.
        self.k = torch.zeros(size, dtype=dtype, device=device)
        self.v = torch.zeros(size, dtype=dtype, device=device)

    @property
    def max_len(self) -> int:
        """Tokens that a slot holds."""
        return self.k.shape[3]

    def clear(self, slot: int) -> None:
        """Forget what a slot held; it may have been no finite numbers, which no mask keeps out of a sum."""
        self.k[:, slot].zero_()
        self.v[:, slot].zero_()

    def prefill(self, slot: int, length: int) -> SlotPrefill:
        """Memory of a call that fills an empty slot with `length` tokens."""
        return SlotPrefill(self, slot, length)

    def decode(self, positions: Tensor, num_keys: int | None = None) -> SlotDecode:
        """Memory of a call that adds one token to each of the first B slots, at `positions` int64 [B].

        All positions are below `num_keys`, and no key behind it is looked at; None: `max_len`.
        """
        return SlotDecode(self, positions, num_keys or self.max_len)


class SlotPrefill:
    """A whole prompt for one slot: causal, nothing before it."""

    def __init__(self, cache: SlotCache, slot: int, length: int) -> None:
        self._cache, self._slot, self._length = cache, slot, length
        device = cache.k.device
        self.positions = torch.arange(length, device=device)[None]
        self.mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the prompt's keys and values; its queries see nothing else."""
        self._cache.k[layer, self._slot, :, : self._length] = k[0]
        self._cache.v[layer, self._slot, :, : self._length] = v[0]
        return k, v


class SlotDecode:
    """One token for each of the first B slots, each at its own position."""

    def __init__(self, cache: SlotCache, positions: Tensor, num_keys: int) -> None:
        self._cache, self._at, self._num_keys = cache, positions, num_keys
        self._rows = torch.arange(len(positions), device=positions.device)
        self.positions = positions[:, None]
        keys = torch.arange(num_keys, device=positions.device)
        self.mask = (keys <= positions[:, None])[:, None, None]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one key and value in each slot; the mask hides what lies behind them."""
        keys, values = self._cache.k[layer, : len(self._rows)], self._cache.v[layer, : len(self._rows)]
        keys[self._rows, :, self._at] = k[:, :, 0]
        values[self._rows, :, self._at] = v[:, :, 0]
        return keys[:, :, : self._num_keys], values[:, :, : self._num_keys]


@dataclass(frozen=True, slots=True)
class WindowState:
    """The last `window - 1` keys and values of one sequence, [layers, K, window - 1, C], and how many it had."""

    k: Tensor
    v: Tensor
    num_seen: int

    @classmethod
    def empty(cls, cfg: Qwen2Config, num_layers: int, dtype: torch.dtype, device: torch.device) -> WindowState:
        """Before the first token."""
        assert cfg.window is not None, "the configuration is checked for it"
        zeros = torch.zeros(
            num_layers, cfg.num_key_value_heads, cfg.window - 1, cfg.head_dim, dtype=dtype, device=device
        )
        return cls(zeros, zeros, 0)


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Window states of B sequences as tensors: keys and values [layers, B, K, window - 1, C], seen int64 [B]."""

    k: Tensor
    v: Tensor
    seen: Tensor

    @classmethod
    def of(cls, states: Sequence[WindowState]) -> WindowBatch:
        """Lay the states of several sequences together."""
        k = torch.stack([state.k for state in states], dim=1)
        v = torch.stack([state.v for state in states], dim=1)
        return cls(k, v, torch.tensor([state.num_seen for state in states], device=k.device))

    def split(self, counts: Sequence[int]) -> list[WindowState]:
        """One state a sequence again; `counts` are what they have seen, known without asking the device."""
        return [
            WindowState(k, v, count) for k, v, count in zip(self.k.unbind(1), self.v.unbind(1), counts, strict=True)
        ]


class WindowMemory:
    """`length` more tokens for each of several sequences that may stand at different positions."""

    def __init__(self, before: WindowBatch, length: int) -> None:
        self._before, self._length = before, length
        self._next_k, self._next_v = torch.empty_like(before.k), torch.empty_like(before.v)
        num_kept = before.k.shape[3]
        seen = before.seen[:, None]
        self.positions = seen + torch.arange(length, device=seen.device)
        keys = seen + torch.arange(-num_kept, length, device=seen.device)
        self.mask = window_mask(self.positions, keys, num_kept + 1)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Join the kept and the new ones, and keep the last of them for the next call."""
        keys = torch.cat((self._before.k[layer], k), dim=2)
        values = torch.cat((self._before.v[layer], v), dim=2)
        self._next_k[layer] = keys[:, :, self._length :]
        self._next_v[layer] = values[:, :, self._length :]
        return keys, values

    def after(self) -> WindowBatch:
        """All states after the call."""
        return WindowBatch(self._next_k, self._next_v, self._before.seen + self._length)


def window_mask(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Positions int64 [B, S] and [B, L] -> bool [B, 1, S, L]: the last `window` keys up to and with the query's own.

    Keys before position 0 do not exist.
    """
    distance = queries[:, :, None] - keys[:, None]
    return ((distance >= 0) & (distance < window) & (keys >= 0)[:, None])[:, None]
