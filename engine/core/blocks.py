"""Bookkeeping of the paged KV cache: which block holds what, and for whom.

Blocks are numbers; the tensors behind them belong to the runner. A request's table lists its blocks in
order of position. A full block can be *published* under a key of its content (`core.prefix`), so that a
later request with the same beginning takes it over. A published block that nobody holds stays *idle*,
still findable, until its space is needed; the one released longest ago goes first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockManager:
    """Blocks of `block_size` tokens, counted by the tables that hold them.

    With `enable_prefix_cache` off nothing is ever published and no block is shared.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_cache: bool = True) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"want at least one block of one token, got {num_blocks} blocks of {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_cache = enable_prefix_cache
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, held by nobody; released longest ago first
        self._holders = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._published: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be reserved now, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def capacity_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def reserve(self, table: list[int], num_tokens: int) -> bool:
        """Extend `table` until it holds `num_tokens`; False, with nothing changed, if too few blocks are free."""
        missing = -(-num_tokens // self.block_size) - len(table)
        if missing > self.num_free:
            return False
        table.extend(self._take() for _ in range(missing))
        return True

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Published blocks for the longest run of `keys` from the start; nobody's count changes."""
        found: list[int] = []
        for key in keys:
            block = self._published.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def open(self, table: list[int], found: Sequence[int], num_tokens: int, *, spare: int) -> bool:
        """Fill an empty table with the `found` blocks and fresh ones, up to `num_tokens`.

        False, with nothing changed, if fewer than `spare` blocks would stay free.
        """
        assert not table
        num_fresh = -(-num_tokens // self.block_size) - len(found)
        num_woken = sum(self._holders[block] == 0 for block in found)
        if num_fresh + num_woken + spare > self.num_free:
            return False
        for block in found:
            self._idle.pop(block, None)
            self._holders[block] += 1
        table.extend(found)
        return self.reserve(table, num_tokens)

    def publish(self, block: int, key: bytes) -> None:
        """Make a full, computed block findable; the first block with a content keeps its key."""
        if self._keys[block] is None and key not in self._published:
            self._keys[block] = key
            self._published[key] = block

    def free(self, table: list[int]) -> None:
        """Give up every block of `table` and empty it."""
        for block in reversed(table):  # the end of a prompt goes before its beginning, which more prompts share
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._keys[block] is None:
                self._free.append(block)
            else:
                self._idle[block] = None
        table.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with `tables`, all those in use."""
        holders = Counter(block for table in tables for block in table)
        assert all(self._holders[block] == holders[block] for block in range(self.num_blocks)), "holder counts are off"
        free = [*self._free, *self._idle]
        assert len(free) == len(set(free)), "a block is free twice"
        assert sorted([*free, *holders]) == list(range(self.num_blocks)), "free + held is not the total"
        assert all(self._keys[block] is None for block in self._free), "a free block is still published"
        assert all(self._keys[block] is not None for block in self._idle), "an idle block has no content"
        assert all(self._keys[block] is not None for block, n in holders.items() if n > 1), "shared without content"
        assert self._published == {key: block for block, key in enumerate(self._keys) if key is not None}

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            key = self._keys[block]
            assert key is not None
            del self._published[key]
            self._keys[block] = None
        self._holders[block] = 1
        return block
