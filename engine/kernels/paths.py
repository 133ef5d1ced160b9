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
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Paths:
    """One switch for each newer way.

    `join_attention`: the last program of a sequence's head joins the parts of decode attention (no second launch).
    `choose_in_gate`: the last program of the gate chooses the experts of a single token (no second launch).
    `thin_products`: products of a few rows with plain weights by our kernel in place of the library's.
    `single_experts`: the experts of one token from whole rows in registers, as the thin products.
    `programmatic`: each kernel starts while the one before it ends, fetches weights, and waits before it reads more;
    off wherever the device or Triton lacks it.
    `ahead`: kernels that wait for something else than memory ask the second-level cache for the next weights.
    `late_sum`: the weighted sum of a token's experts is made where it is added to the residual stream.
    `push_sums`: ranks send each other what they sum, in place of a flag and a read.
    """

    join_attention: bool = False
    choose_in_gate: bool = False
    thin_products: bool = False
    single_experts: bool = False
    programmatic: bool = False
    ahead: bool = False
    push_sums: bool = False
    late_sum: bool = False


VARIANTS: Final[Mapping[str, Paths]] = {
    "measured": Paths(),
    "all": Paths(True, True, True, True, True, True, True, True),
    "lean": Paths(True, False, True, True, programmatic=True, push_sums=True, late_sum=True),
    "join": Paths(join_attention=True),
    "gate": Paths(choose_in_gate=True),
    "thin": Paths(thin_products=True),
    "single": Paths(single_experts=True),
    "programmatic": Paths(programmatic=True),
    "ahead": Paths(ahead=True),
    "push": Paths(push_sums=True),
    "late": Paths(late_sum=True),
    "push late": Paths(push_sums=True, late_sum=True),
    "lean ahead": Paths(True, False, True, True, programmatic=True, ahead=True, push_sums=True, late_sum=True),
    "lean but programmatic": Paths(True, False, True, True, push_sums=True, late_sum=True),
    "all but programmatic": Paths(True, True, True, True, ahead=True, push_sums=True, late_sum=True),
}
# The only combination whose layers have run on a GPU. `engine.bench --variants` says when that should change.
DEFAULT: Final = "measured"

_MEASURED: Final = Paths()
_current: ContextVar[Paths] = ContextVar("decode paths", default=_MEASURED)


def current() -> Paths:
    """The ways that kernels launched now take."""
    return _current.get()


@contextmanager
def taking(paths: Paths) -> Iterator[None]:
    """Launch kernels by `paths` while the context is open, in this thread."""
    token = _current.set(paths)
    try:
        yield
    finally:
        _current.reset(token)
