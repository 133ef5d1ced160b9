"""The audio VAE's decoder: latents to waveform, whole or as a stream of chunks that gives the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.models.istft import OverlapState, SpectrumHead, join_frames
from engine.models.qwen2 import Qwen2Model
from engine.models.qwen2_memory import WindowState
from engine.models.upsample import UpsampleState, upsample, upsample_stream
from engine.models.windowed import empty_window, extend_windows, run_windowed
from engine.talker_config import AudioVAEConfig


@dataclass(frozen=True, slots=True)
class DecoderState:
    """Where one stream stands; a value, so that a failed call leaves it as it was."""

    window: WindowState
    upsampling: UpsampleState | None = None
    overlap: OverlapState | None = None


@dataclass(frozen=True, slots=True)
class LatentChunk:
    """The next latents [n, latent_dim] of one stream, n > 0; `last` ends it."""

    latents: Tensor
    state: DecoderState
    last: bool


# The next columns [B, F, D] of several streams, and their windows -> hidden states [B, F, D], and the windows after.
Backbone = Callable[[Tensor, Sequence[WindowState]], tuple[Tensor, list[WindowState]]]


class VAEDecoder(nn.Module):
    """The tensors under `decoder.`."""

    def __init__(self, cfg: AudioVAEConfig) -> None:
        super().__init__()
        hidden = cfg.decoder.hidden_size
        self.factor = cfg.patch_size
        self.fc1 = nn.Linear(cfg.latent_dim, hidden)
        self.decoder = Qwen2Model(cfg.decoder)
        self.head = SpectrumHead(hidden, cfg.hop_size)

    def forward(self, latents: Tensor) -> Tensor:
        """Whole sequences [B, T, latent_dim] -> float32 samples [B, T * latent_samples], not limited to -1..1."""
        hidden = self.fc1(latents.to(self.fc1.weight.dtype))
        columns = torch.stack([upsample(row, self.factor) for row in hidden])
        frames = self.head(run_windowed(self.decoder, columns))
        return torch.stack([join_frames(row, self.head.window, None, last=True)[0] for row in frames])

    def start(self) -> DecoderState:
        """The state of a new stream."""
        return DecoderState(empty_window(self.decoder))

    def extend(self, columns: Tensor, windows: Sequence[WindowState]) -> tuple[Tensor, list[WindowState]]:
        """Run the backbone on the next columns [B, F, D] of several streams."""
        return extend_windows(self.decoder, columns, windows)

    def stream(
        self, chunks: Sequence[LatentChunk], backbone: Backbone | None = None
    ) -> list[tuple[Tensor, DecoderState]]:
        """Decode the next chunk of each of several streams: float32 samples [n] and the state to go on from.

        A stream runs one chunk behind, and its first call gives no samples; the call with `last` gives all the rest.
        `backbone` runs in place of `extend`, for example recorded.
        """
        hidden = self.fc1(torch.cat([chunk.latents for chunk in chunks]).to(self.fc1.weight.dtype))
        parts = hidden.split([len(chunk.latents) for chunk in chunks])
        raised = [
            upsample_stream(part, self.factor, chunk.state.upsampling, chunk.last)
            for part, chunk in zip(parts, chunks, strict=True)
        ]
        results: dict[int, tuple[Tensor, DecoderState]] = {}
        # Streams of one length share the backbone, whose cost hardly depends on how many there are.
        for length in {len(columns) for columns, _ in raised}:
            members = [i for i, (columns, _) in enumerate(raised) if len(columns) == length]
            columns, their = [raised[i][0] for i in members], [chunks[i] for i in members]
            decoded = self._decode(columns, their, backbone or self.extend)
            results.update(zip(members, decoded, strict=True))
        return [
            (results[i][0], replace(results[i][1], upsampling=upsampling)) for i, (_, upsampling) in enumerate(raised)
        ]

    def _decode(
        self, columns: Sequence[Tensor], chunks: Sequence[LatentChunk], backbone: Backbone
    ) -> list[tuple[Tensor, DecoderState]]:
        """Upsampled columns [F, D] of equal length -> samples and states."""
        states = [chunk.state for chunk in chunks]
        if len(columns[0]) == 0:
            return [(columns[0].new_zeros(0, dtype=torch.float32), state) for state in states]
        hidden, windows = backbone(torch.stack(list(columns)), [state.window for state in states])
        frames = self.head(hidden)
        results = []
        for row, chunk, window in zip(frames, chunks, windows, strict=True):
            samples, overlap = join_frames(row, self.head.window, chunk.state.overlap, chunk.last)
            results.append((samples, DecoderState(window, None, overlap)))
        return results
