"""The understanding model: thinker, towers and projectors, as the root of the parameter tree.

Follows `BailingMM2NativeForConditionalGeneration`: word embeddings with media features written over the
placeholders, then the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from engine.layers.batch import Batch, LayerCache
from engine.model_config import ModelConfig
from engine.models.audio_encoder import AudioEncoder
from engine.models.bailing_moe import BailingMoe
from engine.models.positions import Grid
from engine.models.vision import VisionEncoder, frame_lengths
from engine.parallel import TensorParallel

TowerWork = Callable[[Tensor], Tensor]


class TowerRun(Protocol):
    """Runs a tower: `key` says all that the work depends on beside the values of `x`, None where that is too much."""

    def __call__(self, key: Hashable | None, x: Tensor, prepare: Callable[[], TowerWork]) -> Tensor:
        """What `prepare()` makes of `x`."""


@dataclass(frozen=True, slots=True)
class Features:
    """Encoder output [n, D] for the packed rows [n] that it replaces."""

    rows: Tensor
    values: Tensor


class Ming(nn.Module):
    """The model that one rank holds. A tower whose weights the checkpoint lacks is None."""

    def __init__(self, cfg: ModelConfig, tp: TensorParallel, *, vision: bool, audio: bool) -> None:
        super().__init__()
        self.cfg = cfg
        width, depth = cfg.llm.hidden_size, cfg.mlp_depth
        self.model = BailingMoe(cfg.llm, tp)
        self.vision_encoder = VisionEncoder(cfg.vision, width, depth) if cfg.vision and vision else None
        self.audio_encoder = AudioEncoder(cfg.audio, width, depth) if cfg.audio and audio else None
        self.run_tower: TowerRun | None = None  # None: as modules are called

    def embed(self, ids: Tensor, features: Sequence[Features] = ()) -> Tensor:
        """int64 [T] -> [T, D]; features are cast to the embedding dtype and never rescaled."""
        embeddings: Tensor = self.model.word_embeddings(ids)
        for feature in features:
            embeddings[feature.rows] = feature.values.to(embeddings.dtype)
        return embeddings

    def forward(self, embeddings: Tensor, batch: Batch, caches: Sequence[LayerCache]) -> Tensor:
        """[T, D] -> normed hidden states [T, D]."""
        hidden: Tensor = self.model(embeddings, batch, caches)
        return hidden

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, D] -> float32 [n, V], in `out` if given; the head runs in the model dtype, as released."""
        logits: Tensor = self.model.lm_head(hidden, out)
        return logits

    def encode_pixels(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        """Preprocessed patches [P_i, M] of images or frame pairs -> features [P_i / 4, D], in one packed call."""
        encoder = self.vision_encoder
        assert encoder is not None, "the server refuses pixels without a vision tower"
        packed = torch.cat(list(pixels))
        if self.run_tower is None:
            features = encoder(packed, grids)
        else:
            # Frames of several sizes are gathered by size, with indices that come from the host.
            key = ("pixels", packed.dtype, *grids) if len(set(frame_lengths(grids))) == 1 else None
            features = self.run_tower(key, packed, lambda: encoder.prepare(len(packed), grids))
        lengths = [t * h * w // encoder.merge_size**2 for t, h, w in grids]
        return list(features.split(lengths))

    def encode_audio(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Log-mel clips [L_i, M] -> features [n_i, D], each clip on its own."""
        encoder, run_tower = self.audio_encoder, self.run_tower
        assert encoder is not None, "the server refuses audio without an audio tower"
        if run_tower is None:
            return encoder.encode(clips)
        return encoder.encode(clips, lambda mel: run_tower(("audio", mel.dtype, *mel.shape), mel, lambda: encoder))

    def encode_audio_padded(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """The clips zero-padded to the longest without a mask, as released: shorter ones hear the padding."""
        assert self.audio_encoder is not None, "the server refuses audio without an audio tower"
        return self.audio_encoder.encode_padded(clips)

    def reset_tables(self, device: torch.device) -> None:
        """Fill the computed tables; a checkpoint that holds one overwrites it."""
        self.model.rotary_emb.reset(device)
        if self.audio_encoder is not None:
            self.audio_encoder.audio.reset(device)
