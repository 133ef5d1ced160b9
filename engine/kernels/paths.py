"""Which of two ways the kernels of a decode step take, in one place.

A path that is bound by launches has a measured way and a newer one. Most newer ones lean on what the interpreter cannot
show: that the last program to finish sees what the others wrote, and that a kernel which starts early waits in time.
`VARIANTS` names the combinations, in the order in which `engine.bench --variants each` times them: the two ends first.
`DEFAULT` serves.

The choice is scoped like inference mode (`with taking(paths)`), because it reaches every launch of a step: passed by
hand it would be an argument of each layer and wrapper that has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Paths:
    """One switch for each newer way.

    `join_attention`: the last program of a sequence's head joins the parts of decode attention (no second launch).
    `thin_products`: products of a few rows with plain or fp8 weights from whole rows in registers.
    `single_experts`: the experts of one token from whole rows in registers, as the thin products.
    `programmatic`: each kernel starts while the one before it ends, fetches weights, and waits before it reads more;
    off wherever the device or Triton lacks it.
    `push_sums`: ranks send each other what they sum, in place of a flag and a read.
    `late_sum`: the weighted sum of a token's experts is made where it is added to the residual stream.
    `sort_sooner`: experts of 33 to 64 tokens are sorted, which takes 4 % less and 7 launches more: they are free in a
    captured step alone.
    `split_fp8`: experts in fp8 by the fp8 matrix unit, rows in two parts, in place of widening every weight.
    `heads_in_attention`: decode attention norms and rotates the heads and writes the cache (no launch for that).
    `keys_early`: it asks for the keys of earlier steps before it waits; nothing without both.
    """

    join_attention: bool = False
    thin_products: bool = False
    single_experts: bool = False
    programmatic: bool = False
    push_sums: bool = False
    late_sum: bool = False
    split_fp8: bool = False
    sort_sooner: bool = False
    heads_in_attention: bool = False
    keys_early: bool = False


_LEAN: Final = Paths(
    join_attention=True,
    thin_products=True,
    single_experts=True,
    programmatic=True,
    push_sums=True,
    late_sum=True,
    split_fp8=True,
    sort_sooner=True,
    heads_in_attention=True,
    keys_early=True,
)
VARIANTS: Final[Mapping[str, Paths]] = {
    "plain": Paths(),
    "lean": _LEAN,
    # What serves without one of its ways and what does nothing without it.
    "lean but heads": replace(_LEAN, heads_in_attention=False, keys_early=False),
    "lean but keys": replace(_LEAN, keys_early=False),
    "lean but split": replace(_LEAN, split_fp8=False),
    "lean but programmatic": replace(_LEAN, programmatic=False),
    "join": Paths(join_attention=True),
    "thin": Paths(thin_products=True),
    "single": Paths(single_experts=True),
    "programmatic": Paths(programmatic=True),
    "push": Paths(push_sums=True),
    "late": Paths(late_sum=True),
    "split": Paths(split_fp8=True),
    "sort": Paths(sort_sooner=True),
    "heads": Paths(heads_in_attention=True),
    "keys": Paths(keys_early=True),
}
# What was fastest over all batch sizes on 2 x H200 (docs/performance.md). `engine.bench --variants` says when that
# should change.
DEFAULT: Final = "lean"

_PLAIN: Final = Paths()
_PROMPTS: Final = Paths(split_fp8=True)
_LEAST_PROMPTS: Final = 256  # tokens from which products by the fp8 matrix unit save more than their launches take
_current: ContextVar[Paths] = ContextVar("decode paths", default=_PLAIN)


def current() -> Paths:
    """The ways that kernels launched now take."""
    return _current.get()


def of_prompts(num_tokens: int) -> Paths:
    """What a step of so many tokens takes that is not captured: it waits for launches, then for multiplications."""
    return _PROMPTS if num_tokens >= _LEAST_PROMPTS else _PLAIN


@contextmanager
def taking(paths: Paths) -> Iterator[None]:
    """Launch kernels by `paths` while the context is open, in this thread."""
    token = _current.set(paths)
    try:
        yield
    finally:
        _current.reset(token)
