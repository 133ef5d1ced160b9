"""Radix search of the token at which a cumulative count or probability mass is reached, in descending order.

Tokens are never sorted. A histogram over the leading bits of the logits tells in which bin the search ends, a second
and a third one over the next bits tell the exact value, and tokens of one value have equal mass and stand in order of
their index. Mass is kept in fixed point, so sums do not depend on their order and a result is the same whatever the
grid.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from engine.kernels.triton_support import cdiv, jit, tl

CHUNK = 2048  # logits that a histogram program counts
PICK_CHUNK = 16384
BINS = 2048  # 11 bits of the key, then 11, then 10


class Search(IntEnum):
    """What is looked for: the last token of top-k, the last one of top-p, or the drawn one."""

    NONE = -1
    TOP_K = 0
    TOP_P = 1
    DRAW = 2


@jit
def _key(x):
    """float32 as an unsigned integer of the same order."""
    bits = tl.where(x == 0, 0.0, x).to(tl.uint32, bitcast=True)  # -0.0 and 0.0 are equal
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)


@jit
def _histogram_kernel(
    logits_ptr,
    best_ptr,
    temperature_ptr,
    min_p_ptr,
    prefix_ptr,
    hist_ptr,
    width,
    row_stride,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    LEVEL: tl.constexpr,
    ONE: tl.constexpr = 1099511627776.0,  # 2 ** 40: the mass of the most likely token
):
    """Add this chunk's tokens to hist [B, 2, BINS] (counts, masses), by the LEVEL-th digit of their keys.

    Behind level 0 only tokens whose leading digits are the row's prefix count.
    """
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperature_ptr + row)
    if temperature <= 0:
        return
    index = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    mask = index < width
    logit = tl.load(logits_ptr + row * row_stride + index, mask=mask, other=float("-inf"))
    scaled = tl.div_rn(logit, temperature)
    share = tl.exp(scaled - tl.div_rn(tl.load(best_ptr + row), temperature))
    share = tl.where(share >= tl.load(min_p_ptr + row), share, 0.0)
    key = _key(scaled)
    if LEVEL == 0:
        digit = key >> 21
    else:
        mask = mask & ((key >> (21 if LEVEL == 1 else 10)).to(tl.int64) == tl.load(prefix_ptr + row))
        digit = (key >> 10) & 2047 if LEVEL == 1 else key & 1023
    cell = hist_ptr + row * (2 * BINS) + digit.to(tl.int32)
    tl.atomic_add(cell, tl.full([CHUNK], 1, tl.int64), mask=mask, sem="relaxed")
    tl.atomic_add(cell + BINS, (share * ONE).to(tl.int64), mask=mask & (share > 0), sem="relaxed")


@jit
def _find(hist_ptr, unit, count_above, mass_above, BY_COUNT: tl.constexpr, BINS: tl.constexpr):
    """The digit whose tokens hold `unit` of the cumulative count or mass, counted from the highest digit down.

    -> digit, count and mass above it, count and mass of it.
    """
    place = tl.arange(0, BINS)
    count = tl.load(hist_ptr + BINS - 1 - place)
    mass = tl.load(hist_ptr + 2 * BINS - 1 - place)
    if BY_COUNT:
        upto = count_above + tl.cumsum(count, 0)
    else:
        upto = mass_above + tl.cumsum(mass, 0)
    at = tl.minimum(tl.sum((upto <= unit).to(tl.int32), 0), BINS - 1)
    above, here = place < at, place == at
    count_above += tl.sum(tl.where(above, count, 0), 0)
    mass_above += tl.sum(tl.where(above, mass, 0), 0)
    count_here = tl.sum(tl.where(here, count, 0), 0)
    return BINS - 1 - at, count_above, mass_above, count_here, tl.sum(tl.where(here, mass, 0), 0)


@jit
def _narrow_kernel(unit_ptr, prefix_ptr, count_ptr, mass_ptr, hist_ptr, BY_COUNT: tl.constexpr, BINS: tl.constexpr):
    """The second digit of a row's search."""
    row = tl.program_id(0).to(tl.int64)
    unit, count, mass = tl.load(unit_ptr + row), tl.load(count_ptr + row), tl.load(mass_ptr + row)
    digit, count, mass, _, _ = _find(hist_ptr + row * (2 * BINS), unit, count, mass, BY_COUNT, BINS)
    tl.store(prefix_ptr + row, (tl.load(prefix_ptr + row) << 11) | digit)
    tl.store(count_ptr + row, count)
    tl.store(mass_ptr + row, mass)


@jit
def mix(x):
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@jit
def _uniform(seed, index):
    """See `uniform_reference`."""
    mixed = mix(mix(seed.to(tl.uint64)) ^ (index.to(tl.uint64) * 0x9E3779B97F4A7C15))
    return ((mixed >> 11).to(tl.float64) * 1.1102230246251565e-16).to(tl.float32)


@jit
def _first_unit(kept, top_k_ptr, top_p_ptr, seed_ptr, index_ptr, row, width, SEARCH: tl.constexpr):
    """The unit of count or mass whose token is looked for, when what was kept so far has mass `kept`."""
    if SEARCH == 0:
        top_k = tl.load(top_k_ptr + row)
        unit = tl.where(top_k > 0, tl.minimum(top_k, width), width).to(tl.int64) - 1
    elif SEARCH == 1:
        limit = tl.math.ceil(tl.load(top_p_ptr + row).to(tl.float64) * kept.to(tl.float64)).to(tl.int64)
        unit = tl.minimum(tl.maximum(limit, 1), kept) - 1
    else:
        u = _uniform(tl.load(seed_ptr + row), tl.load(index_ptr + row))
        unit = tl.minimum((u.to(tl.float64) * kept.to(tl.float64)).to(tl.int64), kept - 1)
    return unit


@jit
def _turn_kernel(
    unit_ptr,
    prefix_ptr,
    count_ptr,
    mass_ptr,
    tie_ptr,
    first_hist_ptr,
    hist_ptr,
    top_k_ptr,
    top_p_ptr,
    seed_ptr,
    index_ptr,
    width,
    ENDS: tl.constexpr,
    STARTS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Finish the search ENDS (its third digit) and start the search STARTS (its first digit); -1 is none.

    What a filter keeps is known by its mass alone, because tokens of one key have equal mass.
    """
    row = tl.program_id(0).to(tl.int64)
    if ENDS < 0:
        kept = tl.sum(tl.load(first_hist_ptr + row * (2 * BINS) + BINS + tl.arange(0, BINS)), 0)
    else:
        unit, count, mass = tl.load(unit_ptr + row), tl.load(count_ptr + row), tl.load(mass_ptr + row)
        digit, count, mass, count_here, mass_here = _find(
            hist_ptr + row * (2 * BINS), unit, count, mass, ENDS == 0, BINS
        )
        each = mass_here // tl.maximum(count_here, 1)
        tie = unit - count if ENDS == 0 else (unit - mass) // tl.maximum(each, 1)
        kept = mass + (tie + 1) * each
        tl.store(prefix_ptr + row, (tl.load(prefix_ptr + row) << 10) | digit)
        tl.store(tie_ptr + row, tie)
    if STARTS >= 0:
        zero = kept * 0
        unit = _first_unit(kept, top_k_ptr, top_p_ptr, seed_ptr, index_ptr, row, width, STARTS)
        digit, count, mass, _, _ = _find(first_hist_ptr + row * (2 * BINS), unit, zero, zero, STARTS == 0, BINS)
        tl.store(unit_ptr + row, unit)
        tl.store(prefix_ptr + row, digit.to(tl.int64))
        tl.store(count_ptr + row, count)
        tl.store(mass_ptr + row, mass)


@jit
def _pick_kernel(
    logits_ptr,
    best_ids_ptr,
    temperature_ptr,
    prefix_ptr,
    tie_ptr,
    out_ptr,
    width,
    row_stride,
    CHUNK: tl.constexpr,
):
    """The tie-th token whose key is the one found; the most likely token where the temperature is 0."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperature_ptr + row)
    token = tl.load(best_ids_ptr + row)
    if temperature > 0:
        key, tie = tl.load(prefix_ptr + row), tl.load(tie_ptr + row).to(tl.int32)
        seen = 0
        for at in range(0, width, CHUNK):
            index = at + tl.arange(0, CHUNK)
            logit = tl.load(logits_ptr + row * row_stride + index, mask=index < width, other=float("-inf"))
            same = (_key(tl.div_rn(logit, temperature)).to(tl.int64) == key) & (index < width)
            order = seen + tl.cumsum(same.to(tl.int32), 0)
            found = tl.max(tl.where(same & (order == tie + 1), index, -1), 0)
            token = tl.where(found >= 0, found.to(tl.int64), token)
            seen += tl.sum(same.to(tl.int32), 0)
    tl.store(out_ptr + row, token)


class RadixSearch:
    """The searches of one batch: float32 logits [B, V] and, per row, the largest logit and the sampling choices [B]."""

    def __init__(self, logits: Tensor, best: Tensor, temperature: Tensor, min_p: Tensor, filters: Sequence[Tensor]):
        self._logits = logits
        self._shares = (best, temperature, min_p)
        self._filters = tuple(filters)  # top_k, top_p, seed, index
        self._unit, self._prefix, self._count, self._mass, self._tie = torch.empty(
            5, len(logits), dtype=torch.int64, device=logits.device
        ).unbind()

    def run(self, searches: Sequence[Search]) -> None:
        """Carry out `searches`, each within what the one before it keeps."""
        # The first digit's histogram serves all searches; each of the other two digits needs its own.
        shape = (1 + 2 * len(searches), len(self._logits), 2, BINS)
        first, *others = torch.zeros(shape, dtype=torch.int64, device=self._logits.device).unbind()
        self._fill(first, 0)
        ends, hist = Search.NONE, first
        for search, second, third in zip(searches, others[::2], others[1::2], strict=True):
            self._turn(first, hist, ends, search)
            self._fill(second, 1)
            self._narrow(second, search)
            self._fill(third, 2)
            ends, hist = search, third
        self._turn(first, hist, ends, Search.NONE)

    def pick(self, best_ids: Tensor) -> Tensor:
        """The tokens that the last search found, `best_ids` where the temperature is 0: int64 [B]."""
        out = torch.empty_like(best_ids)
        rows, width = self._logits.shape
        temperature, stride = self._shares[1], self._logits.stride(0)
        _pick_kernel[(rows,)](
            self._logits,
            best_ids,
            temperature,
            self._prefix,
            self._tie,
            out,
            width,
            stride,
            CHUNK=PICK_CHUNK,
            num_warps=16,
        )
        return out

    def _fill(self, hist: Tensor, level: int) -> None:
        rows, width = self._logits.shape
        stride = self._logits.stride(0)
        _histogram_kernel[(rows, cdiv(width, CHUNK))](
            self._logits, *self._shares, self._prefix, hist, width, stride, BINS, CHUNK, LEVEL=level
        )

    def _narrow(self, hist: Tensor, search: Search) -> None:
        state = (self._unit, self._prefix, self._count, self._mass)
        _narrow_kernel[(len(self._logits),)](*state, hist, search == Search.TOP_K, BINS, num_warps=8)

    def _turn(self, first: Tensor, hist: Tensor, ends: Search, starts: Search) -> None:
        state = (self._unit, self._prefix, self._count, self._mass, self._tie)
        rows, width = self._logits.shape
        _turn_kernel[(rows,)](*state, first, hist, *self._filters, width, int(ends), int(starts), BINS, num_warps=8)
