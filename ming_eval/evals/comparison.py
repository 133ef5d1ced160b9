"""Two runs of one suite, item by item: four cells, the paired difference, McNemar's exact test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from ming_eval.accuracy_results import ItemResult, SuiteResult
from ming_eval.errors import DataError
from ming_eval.evals.item import Outcome
from ming_eval.metrics.paired import Cells, Difference, detectable_difference, holm, mcnemar, paired_difference


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """One value of a reporting dimension; `p_adjusted` is by Holm's procedure over all values of the dimension."""

    dimension: str
    name: str
    cells: Cells
    difference: float
    p: float
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class AccuracyComparison:
    """`first` minus `second` over the items that both were asked.

    An item that was asked several times is right in the cells when more than half of its replies are; the difference is
    of the means. `differences` says what of the protocols differs, empty when nothing does.
    """

    suite: str
    first: str
    second: str
    cells: Cells
    difference: Difference
    p: float
    num_unmatched: int
    detectable_difference: float | None
    differences: tuple[str, ...]
    groups: tuple[GroupComparison, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """One item in both runs: the share of its replies that are right, and where it belongs."""

    first: float
    second: float
    item: ItemResult


def compare_suites(
    first: SuiteResult,
    first_items: Iterable[ItemResult],
    second: SuiteResult,
    second_items: Iterable[ItemResult],
    *,
    force: bool = False,
) -> AccuracyComparison:
    """Compare two runs of a suite; the item lines may hold those of other suites and backends, too.

    Raises:
        DataError: the protocols differ and `force` is not set, or there is no item in both.
    """
    differences = _differences(first, second)
    if differences and not force:
        raise DataError(f"{_label(first)} and {_label(second)} were not asked alike: {'; '.join(differences)}")
    ours, theirs = _by_id(first, first_items), _by_id(second, second_items)
    shared = [_Pair(_mean(ours[name]), _mean(theirs[name]), ours[name][0]) for name in ours if name in theirs]
    if not shared:
        raise DataError(f"{_label(first)} and {_label(second)} share no item")
    cells = _cells(shared)
    difference = paired_difference([pair.first for pair in shared], [pair.second for pair in shared], _clusters(shared))
    assert difference is not None, "there are pairs"
    return AccuracyComparison(
        suite=first.suite,
        first=_label(first),
        second=_label(second),
        cells=cells,
        difference=difference,
        p=mcnemar(cells),
        num_unmatched=len(ours.keys() ^ theirs.keys()),
        detectable_difference=detectable_difference(cells.total, cells.num_discordant / cells.total),
        differences=differences,
        groups=tuple(_groups(shared)),
    )


def _label(suite: SuiteResult) -> str:
    return f"{suite.backend} ({suite.model})" if suite.model else suite.backend


def _differences(first: SuiteResult, second: SuiteResult) -> tuple[str, ...]:
    """What of the protocols differs, in words."""
    names = ("suite", "version", "protocol", "method", "prompt", "max_tokens", "temperature", "option_order")
    found = [
        f"{name} {_short(getattr(first, name))} and {_short(getattr(second, name))}"
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]
    if first.protocol_hash != second.protocol_hash and not found:
        found.append(f"protocol digests {first.protocol_hash} and {second.protocol_hash}")
    if first.data.digest != second.data.digest:
        found.append(f"data {first.data.digest[:16]} and {second.data.digest[:16]}")
    return tuple(found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _by_id(suite: SuiteResult, items: Iterable[ItemResult]) -> dict[str, list[ItemResult]]:
    found: dict[str, list[ItemResult]] = defaultdict(list)
    for item in items:
        if (item.suite, item.backend) == (suite.suite, suite.backend):
            found[item.id].append(item)
    return dict(found)


def _mean(replies: Sequence[ItemResult]) -> float:
    return fsum(reply.outcome == Outcome.CORRECT for reply in replies) / len(replies)


def _cells(pairs: Sequence[_Pair]) -> Cells:
    return Cells.of([pair.first > 0.5 for pair in pairs], [pair.second > 0.5 for pair in pairs])


def _clusters(pairs: Sequence[_Pair]) -> list[str] | None:
    if all(pair.item.cluster is None for pair in pairs):
        return None
    return [pair.item.id if pair.item.cluster is None else f"cluster {pair.item.cluster}" for pair in pairs]


def _groups(pairs: Sequence[_Pair]) -> list[GroupComparison]:
    found: list[GroupComparison] = []
    for dimension in dict.fromkeys(name for pair in pairs for name in pair.item.group):
        members: dict[str, list[_Pair]] = defaultdict(list)
        for pair in pairs:
            if dimension in pair.item.group:
                members[pair.item.group[dimension]].append(pair)
        cells = {name: _cells(group) for name, group in members.items()}
        adjusted = holm([mcnemar(each) for each in cells.values()])
        for (name, group), p_adjusted in zip(members.items(), adjusted, strict=True):
            difference = fsum(pair.first - pair.second for pair in group) / len(group)
            found.append(GroupComparison(dimension, name, cells[name], difference, mcnemar(cells[name]), p_adjusted))
    return found
