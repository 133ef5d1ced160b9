"""The VAE decoder's backbone on fixed tensors: the next patch of each of several streams."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from engine.models.qwen2_memory import WindowBatch, WindowMemory, WindowState
from engine.models.vae_decoder import VAEDecoder
from engine.models.windowed import empty_window
from engine.stages.recorder import Recorder, pad, padded_sizes


class VAEStep:
    """Takes the place of `VAEDecoder.extend`: recorded for calls of `num_columns`, as they are for all others.

    Only the end of a stream brings more columns than a patch has.
    """

    def __init__(self, decoder: VAEDecoder, num_slots: int, num_columns: int, recorder: Recorder) -> None:
        self._decoder, self._recorder = decoder, recorder
        self._num_slots, self._num_columns = num_slots, num_columns
        self._sizes = padded_sizes(num_slots)
        self._empty = empty_window(decoder.decoder)
        self._windows = WindowBatch.of([self._empty] * num_slots)
        weight = decoder.fc1.weight
        hidden = decoder.decoder.cfg.hidden_size
        self._columns = torch.zeros(num_slots, num_columns, hidden, dtype=weight.dtype, device=weight.device)
        self._hidden = torch.zeros_like(self._columns)

    def __call__(self, columns: Tensor, windows: Sequence[WindowState]) -> tuple[Tensor, list[WindowState]]:
        """The next columns [B, F, D] of B streams -> hidden states [B, F, D] and their windows after the call."""
        num_rows, length = columns.shape[:2]
        if not self._recorder.pads or length != self._num_columns or num_rows > self._num_slots:
            return self._decoder.extend(columns, windows)
        self._columns[:num_rows] = columns
        before, ours = WindowBatch.of(windows), self._windows
        ours.k[:, :num_rows], ours.v[:, :num_rows], ours.seen[:num_rows] = before.k, before.v, before.seen
        self._run(num_rows)
        after = WindowBatch(ours.k[:, :num_rows].clone(), ours.v[:, :num_rows].clone(), ours.seen[:num_rows])
        return self._hidden[:num_rows].clone(), after.split([window.num_seen + length for window in windows])

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Record every size."""
        for num_rows in self._sizes:
            self._run(num_rows)

    def _run(self, num_rows: int) -> None:
        num_rows = pad(num_rows, self._sizes)
        self._recorder.run(("vae", num_rows), partial(self._extend, num_rows))

    def _extend(self, num_rows: int) -> None:
        """Rows behind those of a call hold what an earlier one left; nobody looks at them."""
        ours = self._windows
        before = WindowBatch(ours.k[:, :num_rows], ours.v[:, :num_rows], ours.seen[:num_rows])
        memory = WindowMemory(before, self._num_columns)
        self._hidden[:num_rows] = self._decoder.decoder(self._columns[:num_rows], memory)
        after = memory.after()
        before.k.copy_(after.k)
        before.v.copy_(after.v)
