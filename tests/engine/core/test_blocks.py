"""Reserving, sharing and evicting blocks, worked out by hand."""

from __future__ import annotations

import pytest

from engine.core.blocks import BlockManager

A, B, C = b"a", b"b", b"c"


def filled(manager: BlockManager, *keys: bytes) -> list[int]:
    """A table whose blocks are full and published under `keys`."""
    table: list[int] = []
    assert manager.reserve(table, len(keys) * manager.block_size)
    for block, key in zip(table, keys, strict=True):
        manager.publish(block, key)
    return table


def test_reserve_extends_by_whole_blocks() -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    table: list[int] = []
    assert manager.reserve(table, 5)
    assert len(table) == 2
    assert manager.reserve(table, 8)
    assert len(table) == 2  # the second block had room
    assert manager.reserve(table, 9)
    assert len(set(table)) == 3
    assert manager.num_free == 1
    manager.check([table])


def test_reserve_changes_nothing_when_blocks_are_short() -> None:
    manager = BlockManager(num_blocks=3, block_size=4)
    first: list[int] = []
    second: list[int] = []
    assert manager.reserve(first, 8)
    assert not manager.reserve(second, 8)
    assert second == []
    assert manager.num_free == 1
    manager.check([first, second])


def test_freed_blocks_can_be_reserved_again() -> None:
    manager = BlockManager(num_blocks=2, block_size=4)
    table: list[int] = []
    assert manager.reserve(table, 8)
    manager.free(table)
    assert table == []
    assert manager.num_free == 2
    assert manager.reserve(table, 8)


def test_find_stops_at_the_first_unknown_key() -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    table = filled(manager, A, B)
    assert manager.find([A, C, B]) == table[:1]
    assert manager.find([C, A]) == []


def test_shared_blocks_stay_until_the_last_holder_frees_them() -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    first = filled(manager, A, B)
    second: list[int] = []
    assert manager.open(second, manager.find([A, B]), 12, spare=0)
    assert second[:2] == first
    assert manager.num_free == 1
    manager.check([first, second])
    manager.free(first)
    assert manager.num_free == 1
    manager.check([second])
    manager.free(second)
    assert manager.num_free == 4
    manager.check([])


def test_open_counts_idle_blocks_it_wakes() -> None:
    manager = BlockManager(num_blocks=3, block_size=4)
    manager.free(filled(manager, A, B))
    assert manager.num_free == 3
    found = manager.find([A, B])
    table: list[int] = []
    # Two idle blocks and one fresh one are needed, so none of the three would be spare.
    assert not manager.open(table, found, 12, spare=1)
    assert table == []
    manager.check([])
    assert manager.open(table, found, 12, spare=0)
    manager.check([table])


def test_eviction_takes_the_longest_idle_and_the_end_of_a_prompt_first() -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    first, second = filled(manager, A, B), filled(manager, C)
    manager.free(first)
    manager.free(second)
    table: list[int] = []
    assert manager.reserve(table, 8)  # one block was never published, one has to be evicted
    assert len(manager.find([A])) == 1
    assert manager.find([A, B]) == manager.find([A])
    assert len(manager.find([C])) == 1
    assert manager.reserve(table, 12)
    assert manager.find([A]) == []
    assert len(manager.find([C])) == 1
    manager.check([table])


def test_using_an_idle_block_makes_it_the_latest() -> None:
    manager = BlockManager(num_blocks=2, block_size=4)
    manager.free(filled(manager, A))
    manager.free(filled(manager, B))
    again: list[int] = []
    assert manager.open(again, manager.find([A]), 4, spare=0)
    manager.free(again)
    assert manager.reserve(again, 4)
    assert manager.find([B]) == []
    assert len(manager.find([A])) == 1


def test_first_block_with_a_content_keeps_its_key() -> None:
    manager = BlockManager(num_blocks=2, block_size=4)
    first = filled(manager, A)
    second = filled(manager, A)
    assert manager.find([A]) == first
    manager.check([first, second])
    manager.free(second)
    assert manager.find([A]) == first


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([[0, 1]], "holder counts"),  # block 2 is held in truth
        ([[0, 1], [1, 2]], "holder counts"),  # block 1 in two tables, counted once
    ],
)
def test_check_notices_tables_that_disagree(tables: list[list[int]], message: str) -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    table: list[int] = []
    assert manager.reserve(table, 12)
    manager.check([table])
    with pytest.raises(AssertionError, match=message):
        manager.check(tables)


def test_check_notices_a_block_shared_without_content() -> None:
    manager = BlockManager(num_blocks=4, block_size=4)
    first: list[int] = []
    second: list[int] = []
    assert manager.reserve(first, 4)
    assert manager.open(second, first, 4, spare=0)
    with pytest.raises(AssertionError, match="shared without content"):
        manager.check([first, second])


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0)])
def test_a_cache_without_room_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockManager(num_blocks, block_size)
