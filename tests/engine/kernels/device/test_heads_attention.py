"""Decode attention with the heads' norm, rotation and cache write inside, against the two launches it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from engine.kernels.decode_attention import DecodeTuning, num_splits
from engine.kernels.heads_attention import heads_attention
from engine.kernels.paged_attention import PagedLayout, paged_attention_reference
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope, qk_norm_rope_reference
from engine.kernels.triton_support import INTERPRET
from engine.layers.attention import Attention
from engine.layers.batch import Batch, LayerCache
from engine.layers.rope import Rotation
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel
from tests.engine.kernels.device.helpers import assert_near
from tests.engine.kernels.device.test_attention import BLOCK, Paged
from tests.engine.kernels.device.test_rotary import tables

# heads, key/value heads, width, rotated pairs: groups of 8, 2, 3 of odd width, 1, and 17
HEADS = [(8, 1, 16, 4), (2, 1, 8, 2), (6, 2, 12, 3), (2, 2, 8, 4), (17, 1, 16, 1)]


class Step:
    """Raw heads of one new token for each of some sequences; every cell that no earlier token owns holds NaN."""

    def __init__(self, lengths: list[int], heads: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        num_heads, num_kv_heads, width, half = heads
        self.paged = Paged(lengths, (num_heads, num_kv_heads, width), dtype)
        packed = torch.randn(len(lengths), num_heads + 2 * num_kv_heads, width, dtype=dtype)
        self.qkv = packed.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
        self.norms = HeadNorms(torch.randn(width, dtype=dtype), torch.randn(width, dtype=dtype), 1e-6)
        self.rotation = tables(len(lengths), half, dtype)
        self.lens, self.tables = torch.tensor(lengths), self.paged.tables
        newest = (self.lens - 1).clamp(min=0)
        self.slots = self.tables.gather(1, (newest // BLOCK)[:, None])[:, 0] * BLOCK + newest % BLOCK
        self.slots[self.lens == 0] = -1
        for cache in (self.paged.k, self.paged.v):
            cache.flatten(0, 1)[self.slots[self.slots >= 0]] = float("nan")

    def pad(self, row: int) -> None:
        """A last row that pads the batch: a copy of another one which stores nothing."""
        self.qkv = tuple(torch.cat((x, x[row : row + 1])) for x in self.qkv)
        self.rotation = tuple(torch.cat((x, x[row : row + 1])) for x in self.rotation)
        self.lens, self.tables = (torch.cat((x, x[row : row + 1])) for x in (self.lens, self.tables))
        self.slots = torch.cat((self.slots, torch.tensor([-1])))

    def run(self, tuning: DecodeTuning) -> tuple[Tensor, Tensor, Tensor]:
        """-> what is attended to, and the caches afterwards."""
        caches = self.paged.k.clone(), self.paged.v.clone()
        out = heads_attention(*self.qkv, self.norms, self.rotation, caches, self.slots, self.tables, self.lens, tuning)
        return out, *caches

    def reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same in two steps."""
        caches, lens = (self.paged.k.clone(), self.paged.v.clone()), self.lens.tolist()
        q = qk_norm_rope_reference(*self.qkv, self.norms, self.rotation, caches, self.slots)
        layout = PagedLayout(self.tables, self.lens, len(lens), tuple(range(len(lens) + 1)), tuple(lens))
        blanks = tuple(cache.nan_to_num() for cache in caches)  # its gather reads cells that no sequence owns
        return paged_attention_reference(q, *blanks, layout), *caches

    def stored(self) -> tuple[Tensor, Tensor]:
        """The caches as the kernel that does nothing else leaves them."""
        caches = self.paged.k.clone(), self.paged.v.clone()
        qk_norm_rope(*self.qkv, self.norms, self.rotation, caches, self.slots)
        return caches


@pytest.fixture(params=["plain", "join"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways of joining the parts."""
    with taking(VARIANTS[request.param]):
        yield request.param


def assert_same_cells(got: Tensor, want: Tensor) -> None:
    """The same cells are written. Compiled, two kernels may round differently; the interpreter gives the same bits."""
    assert torch.equal(got.isnan(), want.isnan())
    if INTERPRET:
        assert torch.equal(got.nan_to_num(), want.nan_to_num())
    assert_near(got.nan_to_num(), want.nan_to_num())


def check(step: Step, tuning: DecodeTuning) -> None:
    """The result is near the reference's, the caches are those of `qk_norm_rope`, and pads give zeros."""
    out, *caches = step.run(tuning)
    attends = step.lens > 0
    want, *_ = step.reference()
    assert_near(out[attends], want[attends])
    assert not out[~attends].any()
    for got, stored in zip(caches, step.stored(), strict=True):
        assert_same_cells(got, stored)


@pytest.mark.parametrize("heads", HEADS)
def test_equals_two_steps(heads: tuple[int, int, int, int], path: str, dtype: torch.dtype) -> None:
    """Around the borders of blocks of 4 and of tiles of 16: the newest key may be alone in its tile or its share."""
    step = Step([1, 4, 5, 17, 18, 33, 50], heads, dtype)
    for programs_per_sm in (1, 4) if heads[1] == 1 else (1,):
        check(step, DecodeTuning(block_keys=16, programs_per_sm=programs_per_sm, least_joined=16))


@pytest.mark.parametrize(("path", "least_joined"), [("plain", 16), ("join", 16), ("join", 48), ("join", 256)])
def test_shares_of_any_length(path: str, least_joined: int, dtype: torch.dtype) -> None:
    step = Step([129, 0, 2, 48, 49, 64, 65], (16, 2, 8, 2), dtype)
    tuning = DecodeTuning(block_keys=16, programs_per_sm=1, most_joined=4, least_joined=least_joined)
    assert num_splits(14, 132, step.lens.device, tuning) == 8
    with taking(VARIANTS[path]):
        check(step, tuning)


@pytest.mark.parametrize("length", [256, 257, 513])
def test_one_part_and_two_as_it_is_served(length: int, path: str, dtype: torch.dtype) -> None:
    check(Step([length, 1], (8, 1, 16, 4), dtype), DecodeTuning())


def test_rows_that_pad_store_nothing(path: str, dtype: torch.dtype) -> None:
    """One repeats a sequence whose new cell is being written; others have no length, even with a slot."""
    step = Step([21, 0, 9], (8, 1, 16, 4), dtype)
    step.pad(0)
    tuning = DecodeTuning(block_keys=16, programs_per_sm=4, least_joined=16)
    check(step, tuning)
    out, *_ = step.run(tuning)
    assert torch.equal(out[3], out[0])
    step.slots[1] = 3  # of the block that is nobody's
    _, k_cache, v_cache = step.run(tuning)
    assert k_cache[0].isnan().all()
    assert v_cache[0].isnan().all()


def test_blocks_that_sequences_share(path: str, dtype: torch.dtype) -> None:
    """Two sequences with the same full blocks, which neither writes."""
    step = Step([18, 17], (8, 1, 16, 4), dtype)
    step.tables[1, :4] = step.tables[0, :4]
    check(step, DecodeTuning(block_keys=16, programs_per_sm=1, least_joined=16))


def test_tables_wider_than_their_sequences_hold_anything(path: str, dtype: torch.dtype) -> None:
    """As in a captured graph: entries behind a sequence are those of an earlier one, and point to what is NaN."""
    step = Step([5, 9, 1], (8, 1, 16, 4), dtype)
    wide = torch.full((3, 40), len(step.paged.k) - 1)
    for row, length in enumerate((5, 9, 1)):
        used = -(-length // BLOCK)
        wide[row, :used] = step.tables[row, :used]
    step.tables = wide
    check(step, DecodeTuning(block_keys=16))


def test_caches_that_do_not_fit_are_refused() -> None:
    step = Step([3], (8, 1, 16, 4), torch.float32)
    q, k, v = step.qkv
    caches = (step.paged.k, step.paged.v)
    with pytest.raises(ValueError, match="qk_norm_rope"):
        heads_attention(q, k[..., :8], v, step.norms, step.rotation, caches, step.slots, step.tables, step.lens)


def test_the_layer_takes_it_for_decodes_alone(dtype: torch.dtype) -> None:
    """Through the model's module: a step of decodes hides the heads and changes nothing else, others are as before."""
    sizes = dict.fromkeys((field.name for field in fields(LLMConfig)[:16]), 1) | {"hidden_size": 32}
    cfg = LLMConfig(**(sizes | {"num_attention_heads": 8, "rms_norm_eps": 1e-6, "head_dim": 16}))
    layer = Attention(cfg, TensorParallel(0, 1)).to(dtype)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    seen: list[Tensor] = []
    layer.norm_rotate_store.register_forward_hook(lambda _module, _args, out: seen.append(out))
    step = Step([9, 6, 1], (8, 1, 16, 4), dtype)
    x, rotation = torch.randn(3, 32, dtype=dtype), Rotation(*step.rotation)
    for num_decodes, entries, lens, starts in (
        (3, step.tables, step.lens, (0, 1, 2, 3)),
        (1, step.tables[:2], step.lens[:2], (0, 1, 3)),
    ):
        layout = PagedLayout(entries, lens, num_decodes, starts, tuple(lens.tolist()))
        batch = Batch(torch.zeros(3, 3, dtype=torch.int64), step.slots, layout)
        found = []
        for path in ("plain", "heads"):
            cache = LayerCache(step.paged.k.nan_to_num(), step.paged.v.nan_to_num())
            with taking(VARIANTS[path]), torch.inference_mode():
                found.append((layer(x, rotation, cache, batch), cache.k, cache.v))
            assert len(seen) == (1 if path == "plain" or num_decodes == 1 else 0)
            seen.clear()
        for got, want in zip(*found, strict=True):
            assert_near(got, want)
