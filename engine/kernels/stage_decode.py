"""From one row of numbers a sequence to the inputs of a decode step: tokens, positions, cache slots and block tables.

What changes little stays on the device between steps: every request has a place with its last token and its block
table, so that a step sends a dozen numbers a sequence, and a token that the step before drew is never waited for.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from engine.kernels.triton_support import jit, tl, use_kernel

BLOCK_ENTRIES = 256  # of a block table, copied at a time


class Column(IntEnum):
    """Columns of a staged row, int64. A row that pads the batch repeats another one with SLOT -1."""

    TOKEN = 0  # its id, or -1: the last one drawn at PLACE
    PLACE = 1
    POSITION = 2  # rotary, the same on all axes
    SLOT = 3  # where its key and value go; -1: nowhere
    LENGTH = 4  # cached tokens after this step
    TABLE_AT = 5  # a new entry of the block table, -1: none
    TABLE_ENTRY = 6
    SEED = 7
    INDEX = 8  # tokens drawn before
    TEMPERATURE = 9  # the bits of a float64
    KEEP = 10  # the place that remembers the token drawn in this step
    COUNT = 11


@dataclass(frozen=True, slots=True)
class Places:
    """What each request keeps on the device: `last_tokens` int64 [S] and `tables` int64 [S, N].

    The last place is nobody's: rows that pad a batch leave their tokens there.
    """

    last_tokens: Tensor
    tables: Tensor

    @staticmethod
    def empty(num_places: int, num_entries: int, device: torch.device) -> Places:
        """Room for `num_places` requests with tables of `num_entries` blocks."""
        last = torch.zeros(num_places + 1, dtype=torch.int64, device=device)
        return Places(last, torch.zeros(num_places + 1, num_entries, dtype=torch.int64, device=device))


@dataclass(frozen=True, slots=True)
class Staged:
    """Inputs of a decode step of B sequences, int64 but for the temperature."""

    ids: Tensor  # [B]
    positions: Tensor  # [3, B]
    slots: Tensor  # [B]
    lengths: Tensor  # [B]
    tables: Tensor  # [B, N], filled as far as the sequence reaches
    seeds: Tensor  # [B]
    indices: Tensor  # [B]
    temperatures: Tensor  # float32 [B]

    @staticmethod
    def empty(num_rows: int, num_entries: int, device: torch.device) -> Staged:
        """Room for `num_rows` sequences with tables of `num_entries` blocks."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        vectors = [zeros(num_rows) for _ in range(5)]
        ids, slots, lengths, seeds, indices = vectors
        temperatures = torch.zeros(num_rows, dtype=torch.float32, device=device)
        tables = zeros(num_rows, num_entries)
        return Staged(ids, zeros(3, num_rows), slots, lengths, tables, seeds, indices, temperatures)


def stage_decode_reference(rows: Tensor, places: Places, out: Staged) -> None:
    """Unpack `rows` int64 [B, COUNT] into `out`, entering new blocks into the tables of `places` first."""
    place = rows[:, Column.PLACE]
    new = rows[:, Column.TABLE_AT] >= 0
    places.tables[place[new], rows[new, Column.TABLE_AT]] = rows[new, Column.TABLE_ENTRY]
    token = rows[:, Column.TOKEN]
    out.ids.copy_(torch.where(token < 0, places.last_tokens[place], token))
    out.positions.copy_(rows[:, Column.POSITION].expand(3, -1))
    out.slots.copy_(rows[:, Column.SLOT])
    out.lengths.copy_(rows[:, Column.LENGTH])
    out.tables.copy_(places.tables[place])
    out.seeds.copy_(rows[:, Column.SEED])
    out.indices.copy_(rows[:, Column.INDEX])
    out.temperatures.copy_(rows[:, Column.TEMPERATURE].contiguous().view(torch.float64))


@jit
def _stage_kernel(
    rows_ptr,
    last_ptr,
    place_tables_ptr,
    ids_ptr,
    positions_ptr,
    slots_ptr,
    lengths_ptr,
    tables_ptr,
    seeds_ptr,
    indices_ptr,
    temperatures_ptr,
    num_entries,
    block_size: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One sequence a program."""
    row, num_rows = tl.program_id(0), tl.num_programs(0)
    at = rows_ptr + row * COLUMNS
    token, place = tl.load(at), tl.load(at + 1)
    if token < 0:
        token = tl.load(last_ptr + place)
    tl.store(ids_ptr + row, token)
    position = tl.load(at + 2)
    for axis in tl.static_range(3):
        tl.store(positions_ptr + axis * num_rows + row, position)
    length = tl.load(at + 4)
    tl.store(slots_ptr + row, tl.load(at + 3))
    tl.store(lengths_ptr + row, length)
    tl.store(seeds_ptr + row, tl.load(at + 7))
    tl.store(indices_ptr + row, tl.load(at + 8))
    tl.store(temperatures_ptr + row, tl.load(at + 9).to(tl.float64, bitcast=True).to(tl.float32))

    new_at, new_entry = tl.load(at + 5), tl.load(at + 6)
    used = ((length + block_size - 1) // block_size).to(tl.int32)
    for first in range(0, used, BLOCK):
        entry = first + tl.arange(0, BLOCK)
        block = tl.load(place_tables_ptr + place * num_entries + entry, mask=entry < used, other=0)
        # A row that pads the batch reads the table that another program is entering the new block into.
        block = tl.where(entry == new_at, new_entry, block)
        tl.store(tables_ptr + row.to(tl.int64) * num_entries + entry, block, mask=entry < used)
    if new_at >= 0:
        tl.store(place_tables_ptr + place * num_entries + new_at, new_entry)


def stage_decode(rows: Tensor, places: Places, block_size: int, out: Staged) -> None:
    """Checked form of `stage_decode_reference`: one launch. Tables are filled only as far as the sequences reach.

    Raises:
        ValueError: sizes do not agree.
    """
    if rows.shape != (len(out.ids), Column.COUNT) or places.tables.shape[1] != out.tables.shape[1]:
        raise ValueError(
            f"stage_decode: rows {tuple(rows.shape)} for {len(out.ids)} sequences, tables of "
            f"{places.tables.shape[1]} entries into {out.tables.shape[1]}"
        )
    if not use_kernel(rows):
        stage_decode_reference(rows, places, out)
        return
    _stage_kernel[(len(rows),)](
        rows,
        places.last_tokens,
        places.tables,
        out.ids,
        out.positions,
        out.slots,
        out.lengths,
        out.tables,
        out.seeds,
        out.indices,
        out.temperatures,
        out.tables.shape[1],
        block_size,
        COLUMNS=int(Column.COUNT),
        BLOCK=BLOCK_ENTRIES,
        num_warps=4,
    )
