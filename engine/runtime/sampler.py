"""Drawing the next token of many sequences at once.

A draw depends on the request's own seed and on how many tokens it has generated, never on its neighbours:
one uniform number per row, made by hashing both, goes through the inverse of the filtered distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.request import SamplingParams, TokenLogprob
from engine.runtime.constraint import Constraint

_MASK = (1 << 64) - 1


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
    drawn = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        tokens[index] = _draw(logits[index], [rows[i] for i in drawn])
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

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device).unsqueeze(1)

    num_tokens = logits.shape[1]
    ranked, order = (logits / column([r.params.temperature for r in rows])).sort(dim=-1, descending=True, stable=True)
    top_k = column([r.params.top_k if r.params.top_k > 0 else num_tokens for r in rows])
    rank = torch.arange(num_tokens, device=logits.device)
    probs = ranked.masked_fill(rank >= top_k, float("-inf")).softmax(dim=-1)
    probs = probs.masked_fill(probs < column([r.params.min_p for r in rows]) * probs[:, :1], 0.0)
    probs = probs / probs.sum(dim=-1, keepdim=True)
    # A token stays while the mass before it is below top_p, so the most likely one always stays.
    probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= column([r.params.top_p for r in rows]), 0.0)
    mass = probs.cumsum(dim=-1)
    target = column([uniform(r.params.seed, r.num_generated) for r in rows]) * mass[:, -1:]
    # Where nothing may be drawn (every logit is -inf or none is a number) the first one is, instead of no index at all.
    last = ((probs > 0).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    chosen = torch.searchsorted(mass, target, right=True).minimum(last)
    return order.gather(1, chosen).squeeze(1)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) from two rounds of the splitmix64 finaliser (Steele et al., 2014) over seed and index."""
    return (_mix(_mix(seed & _MASK) ^ (index * 0x9E3779B97F4A7C15 & _MASK)) >> 11) * 2.0**-53


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


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
