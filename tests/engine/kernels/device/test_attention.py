"""Paged attention of decodes and prefills against dense causal attention in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from engine.kernels.decode_attention import DecodeTuning, decode_attention, num_splits
from engine.kernels.paged_attention import PagedLayout, paged_attention
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.prefill_attention import PrefillTuning, prefill_attention
from tests.engine.kernels.device.helpers import assert_near

BLOCK = 4


class Paged:
    """Sequences of random keys and values in scattered blocks; every slot that no sequence owns holds NaN."""

    def __init__(self, lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.num_heads, self.num_kv_heads, self.width = heads
        self.lengths, self.dtype = lengths, dtype
        counts = [-(-n // BLOCK) for n in lengths]
        order = (torch.randperm(sum(counts)) + 1).split(counts)  # block 0 pads the tables and belongs to nobody
        size = (sum(counts) + 1, BLOCK, self.num_kv_heads, self.width)
        self.k, self.v = torch.full((2, *size), float("nan"), dtype=dtype).unbind()
        self.tables = torch.zeros(len(lengths), max(max(counts), 1), dtype=torch.int64)
        self.keys, self.values = [], []
        for i, n in enumerate(lengths):
            self.tables[i, : counts[i]] = order[i]
            keys, values = torch.randn(2, n, self.num_kv_heads, self.width, dtype=dtype).unbind()
            for position in range(n):
                block = int(order[i][position // BLOCK])
                self.k[block, position % BLOCK] = keys[position]
                self.v[block, position % BLOCK] = values[position]
            self.keys.append(keys)
            self.values.append(values)

    def queries(self, num_rows: int) -> Tensor:
        return torch.randn(num_rows, self.num_heads, self.width, dtype=self.dtype)

    def dense(self, q: Tensor, seq: int) -> Tensor:
        """The last len(q) rows of sequence `seq`, written out."""
        group = self.num_heads // self.num_kv_heads
        k = self.keys[seq].double().repeat_interleave(group, dim=1)
        v = self.values[seq].double().repeat_interleave(group, dim=1)
        scores = torch.einsum("ihc,jhc->hij", q.double(), k) * self.width**-0.5
        visible = torch.arange(len(k)) <= torch.arange(len(k) - len(q), len(k))[:, None]
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        return torch.einsum("hij,jhc->ihc", weights, v).to(self.dtype)


GROUPED, SINGLE, ODD = (16, 2, 16), (2, 2, 8), (6, 2, 12)


@pytest.fixture(params=["plain", "join"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways of joining the parts."""
    with taking(VARIANTS[request.param]):
        yield request.param


@pytest.mark.parametrize("heads", [GROUPED, SINGLE, ODD])
@pytest.mark.parametrize("programs_per_sm", [1, 4])
def test_decode(heads: tuple[int, int, int], programs_per_sm: int, path: str, dtype: torch.dtype) -> None:
    lengths = [1, 15, 16, 17, 33, 70]
    paged = Paged(lengths, heads, dtype)
    q = paged.queries(len(lengths))
    out = torch.empty_like(q)
    tuning = DecodeTuning(block_keys=16, programs_per_sm=programs_per_sm, least_joined=16)
    decode_attention(q, paged.k, paged.v, paged.tables, torch.tensor(lengths), out, tuning)
    assert_near(out, torch.cat([paged.dense(q[i : i + 1], i) for i in range(len(lengths))]))


def test_decodes_of_those_sizes_are_split_over_programs() -> None:
    device = torch.empty(0).device
    assert num_splits(12, 72, device, DecodeTuning(block_keys=16, programs_per_sm=4)) > 1
    assert num_splits(12, 16, device, DecodeTuning(block_keys=16, programs_per_sm=4)) == 1


@pytest.mark.parametrize("longest", [16, 64])
def test_a_sequence_that_pads_the_batch_gives_zeros(longest: int, path: str, dtype: torch.dtype) -> None:
    paged = Paged([longest, 0, 3], GROUPED, dtype)
    q = paged.queries(3)
    out = torch.empty_like(q)
    tuning = DecodeTuning(block_keys=16, least_joined=16)
    decode_attention(q, paged.k, paged.v, paged.tables, torch.tensor([longest, 0, 3]), out, tuning)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert_near(out[2:], paged.dense(q[2:], 2))


def test_table_wider_than_its_sequences(path: str, dtype: torch.dtype) -> None:
    """As in a captured graph: the table has room for longer sequences, so most shares of the keys are empty."""
    paged = Paged([5, 9], GROUPED, dtype)
    tables = torch.zeros(2, 64, dtype=torch.int64)
    tables[:, : paged.tables.shape[1]] = paged.tables
    q = paged.queries(2)
    out = torch.empty_like(q)
    tuning = DecodeTuning(block_keys=16)
    assert num_splits(4, 64 * BLOCK, out.device, tuning) == 16
    decode_attention(q, paged.k, paged.v, tables, torch.tensor([5, 9]), out, tuning)
    assert_near(out, torch.cat([paged.dense(q[i : i + 1], i) for i in range(2)]))


@pytest.mark.parametrize(("most_joined", "least_joined"), [(2, 16), (8, 16), (8, 33), (8, 256)])
def test_the_last_program_joins_and_resets_what_it_counted(
    most_joined: int, least_joined: int, dtype: torch.dtype
) -> None:
    """Many launches on the same counters, of lengths that leave other shares empty: each is right, each the same."""
    lengths = [70, 3, 0, 33, 17, 128]
    paged = Paged(lengths, GROUPED, dtype)
    q = paged.queries(len(lengths))
    tuning = DecodeTuning(block_keys=16, most_joined=most_joined, least_joined=least_joined)
    found = []
    for used in (lengths, [16, 1, 0, 32, 17, 90], lengths, lengths):
        out = torch.empty_like(q)
        with taking(VARIANTS["join"]):
            decode_attention(q, paged.k, paged.v, paged.tables, torch.tensor(used), out, tuning)
        found.append(out)
        apart = torch.empty_like(q)
        decode_attention(q, paged.k, paged.v, paged.tables, torch.tensor(used), apart, tuning)
        assert_near(out, apart)
        assert torch.equal(out[2], torch.zeros_like(out[2]))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3])
    assert_near(found[3][:2], torch.cat([paged.dense(q[i : i + 1], i) for i in range(2)]))


# (new tokens, cached tokens after them): whole prompts and chunks, around the borders of tiles of 4 tokens, 16 keys
CHUNKS = [(1, 1), (5, 5), (4, 16), (3, 17), (8, 32), (9, 33), (2, 40)]


@pytest.mark.parametrize("heads", [GROUPED, SINGLE, ODD])
def test_prefill(heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    paged = Paged([length for _, length in CHUNKS], heads, dtype)
    counts = [new for new, _ in CHUNKS]
    starts = [0, *accumulate(counts)]
    q = paged.queries(starts[-1])
    out = torch.empty_like(q)
    lens = torch.tensor(paged.lengths)
    tuning = PrefillTuning(rows=32, block_keys=16, num_warps=4)
    prefill_attention(q, paged.k, paged.v, paged.tables, lens, torch.tensor(starts), max(counts), out, tuning)
    assert_near(out, torch.cat([paged.dense(rows, i) for i, rows in enumerate(q.split(counts))]))


@pytest.mark.parametrize("counts", [[1, 1, 4, 9], [1, 1], [7]])
def test_mixed_step_through_the_wrapper(counts: list[int], dtype: torch.dtype) -> None:
    paged = Paged([20, 6, 9, 9][-len(counts) :], GROUPED, dtype)
    starts = (0, *accumulate(counts))
    layout = PagedLayout(paged.tables, torch.tensor(paged.lengths), counts.count(1), starts, tuple(paged.lengths))
    q = paged.queries(starts[-1])
    got = paged_attention(q, paged.k, paged.v, layout)
    assert_near(got, torch.cat([paged.dense(rows, i) for i, rows in enumerate(q.split(counts))]))
