"""Staging of decode steps: places, new blocks, padding."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import Tensor

from engine.kernels.stage_decode import Places, Staged, stage_decode, stage_decode_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 4


def rows() -> Tensor:
    """Three sequences, the last one a copy of the first that pads the batch; new blocks for the first and second."""
    half = struct.unpack("<q", struct.pack("<d", 0.5))[0]
    return torch.tensor(
        [
            [-1, 2, 9, 70, 10, 2, 17, 5, 3, half, 2],
            [44, 0, -6, 8, 1101, 275, 9, -7, 0, 0, 0],
            [-1, 2, 9, -1, 10, 2, 17, 5, 3, half, 4],
        ]
    )


def places() -> Places:
    torch.manual_seed(1)
    return Places(torch.randint(1000, (5,)), torch.randint(90, (5, 300)))


def test_rows_become_inputs() -> None:
    device = torch.device(DEVICE)
    got, want = Staged.empty(3, 300, device), Staged.empty(3, 300, device)
    mine, theirs = places(), places()
    stage_decode(rows(), mine, BLOCK, got)
    stage_decode_reference(rows(), theirs, want)
    last = places().last_tokens
    assert got.ids.tolist() == [int(last[2]), 44, int(last[2])]
    assert got.positions.tolist() == [[9, -6, 9]] * 3
    assert got.temperatures.tolist() == [0.5, 0.0, 0.5]
    for name in ("ids", "positions", "slots", "lengths", "seeds", "indices", "temperatures"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    for row, used in enumerate([3, 276, 3]):
        assert torch.equal(got.tables[row, :used], want.tables[row, :used])
    assert got.tables[0, 2] == got.tables[2, 2] == 17
    assert torch.equal(mine.tables, theirs.tables)
    assert mine.tables[0, 275] == 9


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="stage_decode"):
        stage_decode(rows(), places(), BLOCK, Staged.empty(2, 300, torch.device(DEVICE)))
