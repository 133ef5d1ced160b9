"""Drawing the next token of many sequences at once.

A draw depends on the request's own seed and on how many tokens it has generated, never on its neighbours. Without
filters, noise made by hashing both decides in one pass; with filters one uniform number, made in the same way, goes
through the inverse of the filtered distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.core.request import SamplingParams, TokenLogprob
from engine.kernels.gumbel import gumbel_draw
from engine.kernels.sampling import DrawParams, draw
from engine.runtime.constraint import Constraint


@dataclass(slots=True)
class SamplerRow:
    """Sampling state of one request on the runner.

    `prompt_mask` (bool [V]) and `output_counts` (int32 [V]) exist only where a penalty needs them, `constraint` only
    where the answer must follow a schema.
    """

    params: SamplingParams
    num_generated: int = 0
    prompt_mask: Tensor | None = None
    output_counts: Tensor | None = None
    constraint: Constraint | None = None

    @classmethod
    def start(cls, params: SamplingParams, prompt_ids: Tensor, vocab_size: int) -> SamplerRow:
        """State before the first token; `prompt_ids` int64 [n] on the device that samples."""
        row = cls(params)
        if params.repetition_penalty != 1.0:
            row.prompt_mask = torch.zeros(vocab_size, dtype=torch.bool, device=prompt_ids.device)
            row.prompt_mask[prompt_ids] = True
        if params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
            row.output_counts = torch.zeros(vocab_size, dtype=torch.int32, device=prompt_ids.device)
        return row

    @property
    def is_filtered(self) -> bool:
        """Whether a draw leaves tokens out."""
        return self.params.top_k > 0 or self.params.top_p < 1.0 or self.params.min_p > 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the largest logit or a draw from all of them, with nothing adjusted or reported."""
        p = self.params
        if self.constraint is not None:
            return False
        adjusted = self.output_counts is not None or p.logit_bias or self.num_generated < p.min_tokens
        drawn = p.temperature > 0 and self.is_filtered
        return not (adjusted or drawn or p.logprobs is not None)

    def note(self, token: Tensor) -> None:
        """Count a drawn token (int64 scalar, left on its device)."""
        self.num_generated += 1
        if self.output_counts is not None:
            self.output_counts[token] += 1
        if self.constraint is not None:
            self.constraint.note(token)


@dataclass(frozen=True, slots=True)
class Draw:
    """Tokens int64 [B] and, where any row asked for them, float32 log-probabilities [B, V] before all filters."""

    tokens: Tensor
    logprobs: Tensor | None


def sample(logits: Tensor, rows: Sequence[SamplerRow], masks: Sequence[Tensor | None] = ()) -> Draw:
    """Draw one token per row of float32 logits [B, V]; the logits are overwritten.

    `masks` has what each row may draw, bool [V] or None for everything; none at all where no row is constrained.
    """
    wanted = any(row.params.logprobs is not None for row in rows)
    logprobs = logits.log_softmax(dim=-1) if wanted else None
    for i, row in enumerate(rows):
        _adjust(logits[i], row)
        if masks and (mask := masks[i]) is not None:
            logits[i].masked_fill_(~mask, float("-inf"))
    tokens = logits.argmax(dim=-1)
    for filtered in (False, True):  # a row is drawn in the same way whatever its neighbours are
        chosen = [i for i, row in enumerate(rows) if row.params.temperature > 0 and row.is_filtered == filtered]
        if chosen:
            index = torch.tensor(chosen).to(logits.device, non_blocking=True)
            tokens[index] = _draw(logits[index], [rows[i] for i in chosen])
    return Draw(tokens, logprobs)


def _adjust(logits: Tensor, row: SamplerRow) -> None:
    """Bias, penalties and the ban on ending early, on one row [V], in place."""
    params = row.params
    if params.repetition_penalty != 1.0 and row.prompt_mask is not None and row.output_counts is not None:
        seen = row.prompt_mask | (row.output_counts > 0)
        # Keskar et al., 2019: divide positive logits, multiply negative ones.
        scaled = torch.where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty)
        logits.copy_(torch.where(seen, scaled, logits))
    if row.output_counts is not None and (params.presence_penalty or params.frequency_penalty):
        logits -= params.presence_penalty * (row.output_counts > 0) + params.frequency_penalty * row.output_counts
    if params.logit_bias:
        ids, bias = zip(*params.logit_bias, strict=True)
        logits[list(ids)] += torch.tensor(bias, device=logits.device)
    if row.num_generated < params.min_tokens:
        logits[[*params.eos_token_ids, *params.stop_token_ids]] = float("-inf")


def _draw(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    """Temperature, top-k, min-p and top-p, then one draw per row: [B, V] -> int64 [B]."""

    def column(values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(logits.device, non_blocking=True)

    params = DrawParams(
        column([row.params.temperature for row in rows], torch.float32),
        column([row.params.top_k for row in rows], torch.int32),
        column([row.params.top_p for row in rows], torch.float32),
        column([row.params.min_p for row in rows], torch.float32),
        column([signed(row.params.seed) for row in rows], torch.int64),
        column([row.num_generated for row in rows], torch.int64),
    )
    if not rows[0].is_filtered:
        return gumbel_draw(logits, params.temperature, params.seed, params.index)
    return draw(logits, params)


def signed(seed: int) -> int:
    """The int64 of a seed's low 64 bits."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def describe(logprobs: Tensor, tokens: Tensor, counts: Sequence[int | None]) -> list[TokenLogprob | None]:
    """Log-probabilities of `tokens` [n] and their `counts[i]` best alternatives, from rows [n, V].

    The chosen token's value and its entry among the alternatives are the same float.
    """
    most = max((count for count in counts if count is not None), default=0)
    chosen = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
    best = logprobs.topk(most, dim=-1) if most else None
    values = best.values.tolist() if best else [[]] * len(counts)
    ids = best.indices.tolist() if best else [[]] * len(counts)
    return [
        None
        if count is None
        else TokenLogprob(token, chosen[i], tuple(zip(ids[i][:count], values[i][:count], strict=True)))
        for i, (token, count) in enumerate(zip(tokens.tolist(), counts, strict=True))
    ]
