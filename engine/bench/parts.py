"""Where the time of a decode step goes, part by part of the model, beside the least that its bytes allow.

A profile knows kernels by name, and the library's products all look alike. But a step makes its launches in a fixed
order, and ours stand between them: a product behind a norm and before the head norms is the one of queries, keys and
values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean
from typing import Final

from engine.bench.profile import Launch

STAGE: Final = "_stage_kernel"  # the first launch of a captured decode step


class Part(StrEnum):
    """In the order of a step. Kernels that fit nowhere are OTHER."""

    ENDS = "staging, embedding, rotation table"
    NORMS = "sums over ranks, residuals, norms"
    QKV = "query, key, value products"
    HEADS = "head norms, rotation, cache write"
    ATTENTION = "attention"
    OUTPUT = "output products"
    DENSE = "dense feed-forward"
    GATE = "gate, choice of experts"
    EXPERTS = "experts and shared expert"
    HEAD = "head"
    DRAW = "draw, and until the next step"
    OTHER = "other"


_OWN: Final[Mapping[str, Part]] = {
    STAGE: Part.ENDS,
    "_embed_kernel": Part.ENDS,
    "_rope_table_kernel": Part.ENDS,
    "_rms_norm_kernel": Part.NORMS,
    "_sum_add_norm_kernel": Part.NORMS,
    "_push_sum_kernel": Part.NORMS,
    "_qk_norm_rope_kernel": Part.HEADS,
    "_decode_kernel": Part.ATTENTION,
    "_heads_decode_kernel": Part.ATTENTION,
    "_gate_kernel": Part.GATE,
    "_route_kernel": Part.GATE,
    "_plan_kernel": Part.EXPERTS,
    "_place_kernel": Part.EXPERTS,
    "_up_kernel": Part.EXPERTS,
    "_down_kernel": Part.EXPERTS,
    "_single_down_kernel": Part.EXPERTS,
    "_single_fp8_up_kernel": Part.EXPERTS,
    "_split_up_kernel": Part.EXPERTS,
    "_split_down_kernel": Part.EXPERTS,
    "_grouped_split_up_kernel": Part.EXPERTS,
    "_grouped_split_down_kernel": Part.EXPERTS,
    "_single_fp8_down_kernel": Part.EXPERTS,
    "_sum_kernel": Part.EXPERTS,
    "_gather_kernel": Part.HEAD,
    "_chunk_kernel": Part.DRAW,
}
_BETWEEN: Final[Mapping[tuple[Part, Part], Part]] = {
    (Part.NORMS, Part.HEADS): Part.QKV,
    (Part.NORMS, Part.ATTENTION): Part.QKV,
    (Part.ATTENTION, Part.NORMS): Part.OUTPUT,
    (Part.NORMS, Part.NORMS): Part.DENSE,
    (Part.NORMS, Part.GATE): Part.GATE,
    (Part.GATE, Part.GATE): Part.GATE,
    (Part.GATE, Part.EXPERTS): Part.EXPERTS,
    (Part.EXPERTS, Part.EXPERTS): Part.EXPERTS,
    (Part.EXPERTS, Part.NORMS): Part.EXPERTS,
    (Part.NORMS, Part.HEAD): Part.HEAD,
    (Part.NORMS, Part.DRAW): Part.HEAD,
    (Part.HEAD, Part.DRAW): Part.HEAD,
    (Part.ENDS, Part.ENDS): Part.ENDS,
    (Part.ENDS, Part.NORMS): Part.ENDS,
    (Part.DRAW, Part.DRAW): Part.DRAW,
}


@dataclass(frozen=True, slots=True)
class PartTime:
    """One part of one step: time on the clock, gaps before its launches included, and the floor of its bytes."""

    part: str
    launches: float
    us: float
    floor_us: float


def part_times(launches: Sequence[Launch], num_bytes: Mapping[Part, float], bytes_per_s: float) -> list[PartTime]:
    """Mean over the middle half of the captured decode steps, by length; empty where there is none.

    Every launch counts from the end of what came before to its own end, so that the parts add up to a step even where
    kernels overlap.
    """
    steps = sorted(_decode_steps(launches), key=lambda step: step.us)
    middle = steps[len(steps) // 4 : len(steps) - len(steps) // 4]
    if not middle:
        return []
    shares = [step.shares() for step in middle]
    return [
        PartTime(
            part.value,
            fmean(share[part][0] for share in shares),
            fmean(share[part][1] for share in shares),
            1e6 * num_bytes.get(part, 0.0) / bytes_per_s,
        )
        for part in Part
    ]


def part_lines(rows: Sequence[PartTime]) -> list[str]:
    """The table, its sum last."""
    whole = PartTime(
        "whole step", *(sum(getattr(row, name) for row in rows) for name in ("launches", "us", "floor_us"))
    )
    return [
        f"{row.us:10.1f} us {row.launches:7.1f} launches {row.floor_us:10.1f} us floor"
        + (f" {row.floor_us / row.us:6.1%}" if row.us and row.floor_us >= 0.05 else "       -")
        + f"  {row.part}"
        for row in (*rows, whole)
        if row.us or row.floor_us
    ]


@dataclass(frozen=True, slots=True)
class _Step:
    """Launches of one step, and when the next one began."""

    launches: Sequence[Launch]
    end_us: float

    @property
    def us(self) -> float:
        return self.end_us - self.launches[0].start_us

    def shares(self) -> dict[Part, tuple[int, float]]:
        """Launches and time of each part."""
        counts, times = dict.fromkeys(Part, 0), dict.fromkeys(Part, 0.0)
        now = self.launches[0].start_us
        for part, launch in zip(parts_of([launch.kernel for launch in self.launches]), self.launches, strict=True):
            counts[part] += 1
            times[part] += max(0.0, launch.end_us - now)
            now = max(now, launch.end_us)
        times[Part.DRAW] += self.end_us - now
        return {part: (counts[part], times[part]) for part in Part}


def _decode_steps(launches: Sequence[Launch]) -> Iterator[_Step]:
    """From one staging to the next; what prefills in between, or overlaps the next, is no decode step."""
    starts = [i for i, launch in enumerate(launches) if launch.kernel == STAGE]
    for begin, end in pairwise(starts):
        step = _Step(launches[begin:end], launches[end].start_us)
        if not any(launch.kernel == "_prefill_kernel" for launch in step.launches):
            yield step


def parts_of(kernels: Sequence[str]) -> list[Part]:
    """The part of each kernel of a step, in order: our own by name, the library's by what stands on both sides."""
    own: list[Part | None] = []
    before: Part | None = None
    for kernel in kernels:
        part = _OWN.get(kernel)
        if kernel == "_join_kernel":  # of attention's parts, or of the best tokens of chunks
            part = before if before in (Part.ATTENTION, Part.DRAW) else None
        elif kernel.startswith("nccl"):  # logits are all that is gathered, everything else is summed
            part = Part.HEAD if "AllGather" in kernel else Part.NORMS
        own.append(part)
        before = part or before
    found: list[Part] = []
    before = None
    for i, part in enumerate(own):
        if part is None:
            after = next((later for later in own[i:] if later is not None), Part.DRAW)
            found.append(_BETWEEN.get((before or Part.ENDS, after), Part.OTHER))
        else:
            found.append(part)
            before = part
    return found
