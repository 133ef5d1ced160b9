"""Which items of a set are asked: the same ones for the same seed, everywhere, and more of them contain fewer."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ming_eval.errors import UsageError
from ming_eval.evals.digest import digest
from ming_eval.evals.item import Item


def select(
    items: Sequence[Item], *, strata: str | None, per_group: int | None, limit: int | None, seed: int
) -> list[Item]:
    """`per_group` items of each stratum, or `limit` items in proportion to the strata, in the order of the data.

    Raises:
        UsageError: both are given, or `per_group` for items without strata.
    """
    if per_group is not None and limit is not None:
        raise UsageError("--per-group and --limit cannot go together: give one of them")
    if per_group is not None and strata is None:
        raise UsageError("--per-group: this suite has no strata; use --limit")
    if per_group is None and limit is None:
        return list(items)
    groups = by_stratum(items, strata)
    sizes = {name: len(members) for name, members in groups.items()}
    counts = dict.fromkeys(sizes, per_group) if per_group is not None else proportional(sizes, limit or 0)
    chosen = {item.id for name, members in groups.items() for item in _ordered(members, seed)[: counts[name]]}
    return [item for item in items if item.id in chosen]


def by_stratum(items: Iterable[Item], strata: str | None) -> dict[str, list[Item]]:
    """Items by their value of the dimension `strata`; all in one where it is None."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[stratum_of(item, strata)].append(item)
    return dict(groups)


def stratum_of(item: Item, strata: str | None) -> str:
    """The item's value of the dimension `strata`, empty where there is none."""
    return item.group.get(strata, "") if strata is not None else ""


def proportional(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` places over strata in proportion to their sizes, none over its size.

    By the divisor method with odd divisors: adding a place never takes one from another stratum, which keeps smaller
    samples inside larger ones.
    """
    counts = dict.fromkeys(sizes, 0)
    queue = [(-float(size), name) for name, size in sizes.items() if size > 0]
    heapq.heapify(queue)
    for _ in range(min(total, sum(sizes.values()))):
        _, name = heapq.heappop(queue)
        counts[name] += 1
        if counts[name] < sizes[name]:
            heapq.heappush(queue, (-sizes[name] / (2 * counts[name] + 1), name))
    return counts


def _ordered(items: Iterable[Item], seed: int) -> list[Item]:
    return sorted(items, key=lambda item: digest(seed, item.id))
