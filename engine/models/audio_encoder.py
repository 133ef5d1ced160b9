"""Audio tower: log-mel frames of speech and sound clips to unit-norm features.

The encoder of Whisper (Radford et al., 2022) and the released strided projector, 25 features a second. It knows no
mask: frames that pad a clip are heard, so each clip is encoded on its own unless the released batching is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engine.model_config import AudioConfig, WhisperConfig

MAX_TIMESCALE = 10000.0


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Whisper's position table, float32 [length, width]: sines in the first half, cosines in the second."""
    half = width // 2
    step = math.log(MAX_TIMESCALE) / (half - 1)
    frequencies = torch.exp(-step * torch.arange(half, device=device, dtype=torch.float32))
    phases = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((phases.sin(), phases.cos()), dim=1)


def num_encoder_frames(num_mel_frames: int) -> int:
    """Rows after the two convolutions, the second of stride 2."""
    return (num_mel_frames - 1) // 2 + 1


def num_audio_tokens(cfg: AudioConfig, num_mel_frames: int) -> int:
    """Features of a clip of `num_mel_frames` frames; ceil(frames / 4) with the released kernel and stride."""
    kernel, padding = cfg.ds_kernel_size, cfg.ds_kernel_size // 2
    return (num_encoder_frames(num_mel_frames) - kernel + 2 * padding) // cfg.ds_stride + 1


class MultiHeadAttention(nn.Module):
    """Bidirectional attention; the key projection has no bias."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        q, k, v = (self._split_heads(project(x)) for project in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, S, C]


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(width, num_heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class WhisperEncoder(nn.Module):
    """The tensors under `audio.`.

    `positional_embedding` is analytic: a checkpoint may hold it (rounded to its dtype) or leave it out.
    """

    def __init__(self, cfg: WhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(cfg.n_mels, cfg.n_state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(cfg.n_state, cfg.n_state, kernel_size=3, stride=2, padding=1)
        self.positional_embedding: Tensor
        table = torch.empty(cfg.n_ctx, cfg.n_state)
        # Without storage there is nothing to compute, and the meta device would import torch's compiler for `arange`.
        self.register_buffer("positional_embedding", table if table.is_meta else sinusoids(cfg.n_ctx, cfg.n_state))
        self.blocks = nn.ModuleList(ResidualAttentionBlock(cfg.n_state, cfg.n_head) for _ in range(cfg.n_layer))
        self.ln_post = nn.LayerNorm(cfg.n_state)

    def reset(self, device: torch.device) -> None:
        """Fill the position table on `device`, for a model that was created without storage."""
        length, width = self.positional_embedding.shape
        self.positional_embedding = sinusoids(length, width, device).to(self.conv1.weight.dtype)

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel frames [B, L, M] -> [B, S, D] with S = ceil(L / 2).

        Raises:
            ValueError: the clips are longer than the position table.
        """
        length, limit = num_encoder_frames(mel.shape[1]), len(self.positional_embedding)
        if length > limit:
            raise ValueError(f"audio of {mel.shape[1]} mel frames is longer than the {2 * limit} that can be encoded")
        x = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype).transpose(1, 2)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positional_embedding[:length]
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Transpose(nn.Module):
    """Swaps time and channels; it exists so that the projector's layers have their released numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] <-> [B, D, S]."""
        return x.transpose(1, 2)


class AudioProjector(nn.Sequential):
    """The tensors under `linear_proj_audio.`: a strided convolution, then linear layers with GELU before each."""

    def __init__(self, cfg: AudioConfig, hidden_size: int, mlp_depth: int) -> None:
        kernel = cfg.ds_kernel_size
        width = cfg.whisper_encoder_config.n_state
        deeper = (layer for _ in range(mlp_depth - 1) for layer in (nn.GELU(), nn.Linear(hidden_size, hidden_size)))
        conv = nn.Conv1d(width, hidden_size, kernel, stride=cfg.ds_stride, padding=kernel // 2)
        super().__init__(conv, Transpose(), *deeper)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] of the encoder -> [B, n, D] of the LLM."""
        return super().forward(x.transpose(1, 2))


class AudioEncoder(nn.Module):
    """Tower, projector and normalisation; parameter names are the released ones without a prefix to strip."""

    def __init__(self, cfg: AudioConfig, hidden_size: int, mlp_depth: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.audio = WhisperEncoder(cfg.whisper_encoder_config)
        self.linear_proj_audio = AudioProjector(cfg, hidden_size, mlp_depth)

    def forward(self, mel: Tensor) -> Tensor:
        """Clips of equal length [B, L, M] -> features [B, n, D], of unit norm where the configuration says so."""
        features = self.linear_proj_audio(self.audio(mel))
        return F.normalize(features, dim=-1) if self.cfg.norm_query_embeds else features

    def encode(self, clips: Sequence[Tensor], run: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """Each clip on its own: [L_i, M] -> [n_i, D]. Clips of equal length share a batch, which changes nothing.

        `run` stands in for the call of this module: for who replays it.
        """
        run = run or self
        features: dict[int, Tensor] = {}
        for length in {len(clip) for clip in clips}:
            members = [i for i, clip in enumerate(clips) if len(clip) == length]
            features.update(zip(members, run(torch.stack([clips[i] for i in members])), strict=True))
        return [features[i] for i in range(len(clips))]

    def encode_padded(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """The released batching: zero-padded to the longest without a mask, so that shorter clips hear the padding."""
        features = self(pad_sequence(list(clips), batch_first=True))
        return [row[: num_audio_tokens(self.cfg, len(clip))] for row, clip in zip(features, clips, strict=True)]
