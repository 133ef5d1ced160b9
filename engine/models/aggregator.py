"""One patch of latents as one input embedding of the talker's language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.layers.embedding import empty_embedding
from engine.models.dit import Block, FinalLayer, PositionTable
from engine.talker_config import DiTConfig


class Aggregator(nn.Module):
    """A learned token in front of the patch gathers it; the blocks are those of the flow model."""

    def __init__(self, cfg: DiTConfig, out_features: int, patch_size: int) -> None:
        super().__init__()
        self.word_embedder = empty_embedding(1, cfg.hidden_size)
        self.x_embedder = nn.Linear(cfg.in_channels, cfg.hidden_size)
        self.table = PositionTable(cfg.head_dim, 1 + patch_size)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.final_layer = FinalLayer(cfg, out_features)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, P, M] -> [B, 1, D_llm] in the model dtype."""
        patch = self.x_embedder(latents.to(self.x_embedder.weight.dtype))
        token = self.word_embedder.weight.expand(len(patch), 1, -1)
        sequence = torch.cat((token, patch), dim=1)
        rotation = self.table()
        for block in self.blocks:
            sequence = block(sequence, rotation)
        return self.final_layer(sequence[:, :1])
