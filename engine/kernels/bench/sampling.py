"""Cases of drawing tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from engine.kernels.argmax import argmax, argmax_reference
from engine.kernels.bench.case import Case, Outputs, Source, different_share
from engine.kernels.sampling import DrawParams, draw, draw_reference


def sampling_cases(source: Source) -> Iterator[Case]:
    """Greedy, plain and filtered draws for every batch."""
    for num_rows in source.sizes.decodes:
        yield argmax_case(source, num_rows)
        yield draw_case(source, num_rows, filtered=False)
        yield draw_case(source, num_rows, filtered=True)


def argmax_case(source: Source, num_rows: int) -> Case:
    """The largest logit, in the model dtype."""
    s = source.sizes
    logits = source.normal(s.num_sets, num_rows, s.vocab, scale=3.0)

    def run(i: int) -> Outputs:
        return argmax(logits[i])

    def reference(i: int) -> Outputs:
        return argmax_reference(logits[i])

    num_bytes = num_rows * s.vocab * source.item_bytes
    variants = {"default": run}
    return Case("argmax", f"B={num_rows}", num_bytes, 0, s.num_sets, variants, reference, reference, 0.0)


def draw_case(source: Source, num_rows: int, *, filtered: bool) -> Case:
    """Seeded draws from all tokens, or within top-k 200 and top-p 0.95; the floor is one pass over the logits."""
    s = source.sizes
    logits = source.normal(s.num_sets, num_rows, s.vocab, scale=3.0).float()
    ones = torch.ones(num_rows, device=source.device)
    top_k, top_p = (200, 0.95) if filtered else (0, 1.0)
    seeds = torch.randint(2**62, (num_rows,), device=source.device)
    index = torch.arange(num_rows, device=source.device)
    params = DrawParams(ones, ones.int() * top_k, ones * top_p, ones * 0, seeds, index)

    def run(i: int) -> Outputs:
        return (draw(logits[i], params, top_k=filtered, top_p=filtered),)

    def reference(i: int) -> Outputs:
        return (draw_reference(logits[i], params),)

    return Case(
        "draw top-k top-p" if filtered else "draw",
        f"B={num_rows}",
        4 * num_rows * s.vocab,
        0,
        s.num_sets,
        {"default": run},
        reference,
        reference,
        bound=0.02,  # one of 64: a number can fall within a rounding of the border between two tokens
        error=different_share,
    )
