"""The talker: text and voice in, latents of speech out, one patch per step of its own language model.

Per step: state of the language model -> flow matching -> patch of latents -> aggregator -> next input. No token is
ever sampled; all randomness is the initial noise and, where asked for, that of the stochastic solver.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models.aggregator import Aggregator
from engine.models.cfm import FlowMatching
from engine.models.dit import DiT
from engine.models.qwen2 import Qwen2Model
from engine.models.qwen2_memory import SlotCache
from engine.talker_config import SPEAKER_WIDTH, TalkerConfig


class Talker(nn.Module):
    """Language model, flow matching, aggregator, stop and speaker heads."""

    def __init__(self, cfg: TalkerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        hidden = cfg.llm.hidden_size
        self.embed_tokens = nn.Embedding(cfg.llm.vocab_size, hidden)
        self.model = Qwen2Model(cfg.llm)
        flow = DiT(cfg.flowmodel, cfg.cond_dim, cfg.history_patch_size, cfg.patch_size)
        self.cfm = FlowMatching(flow, cfg.steps)
        self.aggregator = Aggregator(cfg.aggregator, hidden, cfg.patch_size)
        self.stop_head = nn.Linear(hidden, 2)
        self.spk_head = nn.Linear(SPEAKER_WIDTH, hidden)

    def project_speakers(self, vectors: Tensor) -> Tensor:
        """Speaker vectors [n, 192] -> rows [n, D] for the prompt."""
        return self.spk_head(vectors.to(self.spk_head.weight.dtype))

    def zero_speaker(self) -> Tensor:
        """The row [1, D] that stands for "no voice given"; it does not go through the speaker head."""
        return torch.zeros_like(self.spk_head.bias)[None]

    def aggregate(self, latents: Tensor) -> Tensor:
        """Whole patches of a reference clip [N * P, M] -> prompt rows [N, D]."""
        return self.aggregator(latents.unflatten(0, (-1, self.cfg.patch_size)))[:, 0]

    def embed(self, ids: Tensor, replaced: Sequence[tuple[Sequence[int], Tensor]] = ()) -> Tensor:
        """Prompt int64 [L] -> [L, D], with the given rows overwritten by the given values [n, D]."""
        embeddings: Tensor = self.embed_tokens(ids)
        for rows, values in replaced:
            embeddings[list(rows)] = values.to(embeddings.dtype)
        return embeddings

    def prefill(self, embeddings: Tensor, cache: SlotCache, slot: int) -> Tensor:
        """Fill an empty slot with a prompt [L, D] -> normed hidden states [L, D]."""
        return self.model(embeddings[None], cache.prefill(slot, len(embeddings)))[0]

    def decode(self, embeddings: Tensor, cache: SlotCache, positions: Tensor, num_keys: int | None = None) -> Tensor:
        """One more input [B, 1, D] for each of the first B slots, at `positions` int64 [B] -> hidden [B, 1, D].

        Looks at no more than the first `num_keys` keys of a slot, which is all there are where it is None.
        """
        return self.model(embeddings, cache.decode(positions, num_keys))

    def stop_probability(self, hidden: Tensor) -> Tensor:
        """State [B, 1, D] -> float32 [B], the probability that the patch it drives is the last."""
        return self.stop_head(hidden)[:, 0].float().softmax(dim=-1)[:, 1]
