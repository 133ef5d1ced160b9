"""Two runs of one suite, item by item: four cells, the paired difference, and whether it could be chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import fsum

from ming_eval.accuracy_results import ItemResult, SuiteResult
from ming_eval.compare.comparison import ALPHA, Verdict
from ming_eval.errors import DataError
from ming_eval.evals.item import Kind, Outcome
from ming_eval.evals.scored import RATE_KINDS
from ming_eval.evals.scoring.text import TEXT_METRICS
from ming_eval.evals.scoring.transcript import ERRORS
from ming_eval.metrics.paired import (
    Cells,
    Difference,
    Part,
    detectable_difference,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_difference,
)


class Test(StrEnum):
    """Which probability decides: the exact one where items are independent and right or wrong."""

    __test__ = False  # no test of pytest's

    MCNEMAR = "exact McNemar"
    PAIRED_T = "paired t over clusters"
    BOOTSTRAP = "paired bootstrap"


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """One value of a reporting dimension; `p_adjusted` is by Holm's procedure over all values of the dimension."""

    dimension: str
    name: str
    items: int
    first: float
    second: float
    cells: Cells
    p: float | None
    p_adjusted: float | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class AccuracyComparison:
    """`second` minus `first` in the suite's metric, over the items that both were asked.

    An item that was asked several times is right in `cells` when more than half of its replies are; the differences are
    of its mean. `mcnemar_p` is of the cells, `p` of the `test` that decides; `p_adjusted` is by Holm's procedure over
    all suites that were compared, and `verdict` follows it. `paired` and `detectable_difference` are None for error
    rates, whose items do not weigh alike. `same_answers` is the share of items to which both gave the same answers,
    None where none could be read. `forbidden` says what of the questions differs, empty unless the comparison was
    forced; `notes` what else does. `silent` names the runs without any reply, of which nothing follows.
    """

    suite: str
    metric: str
    lower_is_better: bool
    first: str
    second: str
    items: int
    first_value: float
    second_value: float
    cells: Cells
    paired: Difference | None
    bootstrap: Difference
    mcnemar_p: float
    test: Test
    p: float | None
    num_unmatched: int
    detectable_difference: float | None
    same_answers: float | None
    forbidden: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[GroupComparison, ...]
    silent: tuple[str, ...] = ()
    p_adjusted: float | None = None
    verdict: Verdict | None = None

    @property
    def difference(self) -> Difference:
        """The one with the interval that goes with the test."""
        return self.bootstrap if self.paired is None or self.test is Test.BOOTSTRAP else self.paired


@dataclass(frozen=True, slots=True)
class _Pair:
    """One item in both runs: what it adds to the metric, whether it is right, and where it belongs."""

    first: Part
    second: Part
    is_right: tuple[bool, bool]
    item: ItemResult


def compare_suites(
    first: SuiteResult,
    first_items: Iterable[ItemResult],
    second: SuiteResult,
    second_items: Iterable[ItemResult],
    *,
    labels: tuple[str, str] | None = None,
    force: bool = False,
) -> AccuracyComparison:
    """Compare two runs of a suite; the item lines may hold those of other suites and backends, too.

    Raises:
        DataError: what was asked differs and `force` is not set, or there is no item in both.
    """
    one, other = labels or (first.backend, second.backend)
    forbidden = _differences(first, second)
    if forbidden and not force:
        raise DataError(
            f"{one} and {other} were not asked {first.suite} alike ({'; '.join(forbidden)}): "
            "ask them by one protocol, or compare all the same with --force"
        )
    ours, theirs = _by_id(first, first_items), _by_id(second, second_items)
    pairs = [_pair(first, ours[name], theirs[name]) for name in ours if name in theirs]
    if not pairs:
        raise DataError(f"{one} and {other} share no item of {first.suite}")
    clusters, test = _clusters(pairs), _test(first, pairs, max(len(each) for each in ours.values()))
    cells = _cells(pairs)
    paired, bootstrap = _estimates(pairs, clusters, test)
    silent = tuple(label for label, suite in ((one, first), (other, second)) if suite.is_unheard)
    smallest = detectable_difference(cells.total, cells.num_discordant / cells.total)
    return AccuracyComparison(
        suite=first.suite,
        metric=first.metric,
        lower_is_better=first.lower_is_better,
        first=one,
        second=other,
        items=len(pairs),
        first_value=_value([pair.first for pair in pairs]),
        second_value=_value([pair.second for pair in pairs]),
        cells=cells,
        paired=paired,
        bootstrap=bootstrap,
        mcnemar_p=mcnemar(cells),
        test=test,
        p=None if silent else _probability(test, cells, paired, bootstrap),
        num_unmatched=len(ours.keys() ^ theirs.keys()),
        detectable_difference=None if test is Test.BOOTSTRAP else smallest,
        same_answers=_same_answers(ours, theirs),
        forbidden=forbidden,
        notes=tuple(_notes(first, second)),
        groups=() if silent else tuple(_groups(pairs, test)),
        silent=silent,
    )


def with_verdicts(comparisons: Sequence[AccuracyComparison]) -> list[AccuracyComparison]:
    """The comparisons with verdicts under Holm's procedure over all that were looked at."""
    adjusted = _adjusted([each.p for each in comparisons])
    return [
        replace(each, p_adjusted=p, verdict=None if p is None else _verdict(each, p))
        for each, p in zip(comparisons, adjusted, strict=True)
    ]


def _verdict(comparison: AccuracyComparison, p: float) -> Verdict:
    if p >= ALPHA:
        return Verdict.NO_DIFFERENCE
    is_more = comparison.second_value > comparison.first_value
    return Verdict.BETTER if is_more != comparison.lower_is_better else Verdict.WORSE


# --- What differs ------------------------------------------------------------------------------------------------


def _differences(first: SuiteResult, second: SuiteResult) -> tuple[str, ...]:
    """What of the protocols differs, in words."""
    names = ("suite", "version", "metric", "protocol", "method", "prompt", "max_tokens", "temperature", "option_order")
    found = [
        f"{name} {_short(getattr(first, name))} and {_short(getattr(second, name))}"
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]
    if first.protocol_hash != second.protocol_hash and not found:
        digests = f"protocol digests {first.protocol_hash} and {second.protocol_hash}"
        found.append(f"{digests}; where versions read replies differently, `ming-eval rescore` both")
    if first.data.digest != second.data.digest:
        found.append(f"data {first.data.digest[:16]} and {second.data.digest[:16]}")
    return tuple(found)


def _notes(first: SuiteResult, second: SuiteResult) -> Iterable[str]:
    """What a reader must know besides."""
    if first.model != second.model:
        yield f"model: {first.model} against {second.model}"
    if first.repeats != second.repeats:
        yield f"replies to each item: {first.repeats} against {second.repeats}"
    lost = [suite.error + suite.skipped for suite in (first, second)]
    if any(lost):
        yield f"errors and skipped items, which count as wrong: {lost[0]} against {lost[1]}"
    ends = ["complete" if suite.complete else "incomplete" for suite in (first, second)]
    if "incomplete" in ends:
        yield f"the runs are {ends[0]} and {ends[1]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- Items -------------------------------------------------------------------------------------------------------


def _by_id(suite: SuiteResult, items: Iterable[ItemResult]) -> dict[str, list[ItemResult]]:
    found: dict[str, list[ItemResult]] = defaultdict(list)
    for item in items:
        if (item.suite, item.backend) == (suite.suite, suite.backend):
            found[item.id].append(item)
    return dict(found)


def _pair(suite: SuiteResult, ours: Sequence[ItemResult], theirs: Sequence[ItemResult]) -> _Pair:
    return _Pair(_part(suite, ours), _part(suite, theirs), (_is_right(ours), _is_right(theirs)), ours[0])


def _part(suite: SuiteResult, replies: Sequence[ItemResult]) -> Part:
    """What an item adds to the suite's metric."""
    if suite.kind in RATE_KINDS:
        if any(ERRORS not in reply.tallies for reply in replies):
            raise DataError(
                "a run has no counts of errors in its items.jsonl: bring it up to date, `ming-eval rescore`"
            )
        parts = [reply.tallies[ERRORS] for reply in replies]
        return fsum(over for over, _ in parts), fsum(under for _, under in parts)
    if suite.kind == Kind.TEXT and suite.metric in TEXT_METRICS:
        return fsum(reply.value for reply in replies) / len(replies), 1.0
    return fsum(map(_is_correct, replies)) / len(replies), 1.0


def _is_correct(reply: ItemResult) -> bool:
    return reply.outcome == Outcome.CORRECT


def _is_right(replies: Sequence[ItemResult]) -> bool:
    return 2 * sum(map(_is_correct, replies)) > len(replies)


def _value(parts: Sequence[Part]) -> float:
    return fsum(over for over, _ in parts) / fsum(under for _, under in parts)


def _cells(pairs: Sequence[_Pair]) -> Cells:
    return Cells.of([pair.is_right[0] for pair in pairs], [pair.is_right[1] for pair in pairs])


def _clusters(pairs: Sequence[_Pair]) -> list[str] | None:
    if all(pair.item.cluster is None for pair in pairs):
        return None
    return [f"item {pair.item.id}" if pair.item.cluster is None else f"cluster {pair.item.cluster}" for pair in pairs]


def _same_answers(ours: dict[str, list[ItemResult]], theirs: dict[str, list[ItemResult]]) -> float | None:
    """Share of items to which both gave the same answers, of those that any answer could be read of."""
    answers = [(_answers(ours[name]), _answers(theirs[name])) for name in ours if name in theirs]
    readable = [pair for pair in answers if pair[0] or pair[1]]
    return sum(a == b for a, b in readable) / len(readable) if readable else None


def _answers(replies: Sequence[ItemResult]) -> dict[tuple[int, int], str]:
    return {(each.repeat, each.rotation): each.extracted for each in replies if each.extracted is not None}


# --- Tests -------------------------------------------------------------------------------------------------------


def _test(suite: SuiteResult, pairs: Sequence[_Pair], most_replies: int) -> Test:
    is_graded = any(pair.first[0] not in (0.0, 1.0) or pair.second[0] not in (0.0, 1.0) for pair in pairs)
    if suite.kind in RATE_KINDS or (is_graded and most_replies == 1):
        return Test.BOOTSTRAP
    has_clusters = any(pair.item.cluster is not None for pair in pairs)
    return Test.PAIRED_T if has_clusters or most_replies > 1 else Test.MCNEMAR


def _estimates(
    pairs: Sequence[_Pair], clusters: Sequence[str] | None, test: Test
) -> tuple[Difference | None, Difference]:
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    bootstrap = paired_bootstrap(first, second, clusters)
    assert bootstrap is not None, "there are pairs, and none without a length"
    if test is Test.BOOTSTRAP:
        return None, bootstrap
    return paired_difference([over for over, _ in first], [over for over, _ in second], clusters), bootstrap


def _probability(test: Test, cells: Cells, paired: Difference | None, bootstrap: Difference) -> float | None:
    if test is Test.MCNEMAR:
        return mcnemar(cells)
    return bootstrap.p if paired is None else paired.p


def _groups(pairs: Sequence[_Pair], test: Test) -> list[GroupComparison]:
    """Every value of every dimension, in the order of the data."""
    found: list[GroupComparison] = []
    for dimension in dict.fromkeys(name for pair in pairs for name in pair.item.group):
        members: dict[str, list[_Pair]] = defaultdict(list)
        for pair in pairs:
            if dimension in pair.item.group:
                members[pair.item.group[dimension]].append(pair)
        rows = [_group(dimension, name, group, test) for name, group in members.items()]
        adjusted = _adjusted([row.p for row in rows])
        found += [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
    return found


def _group(dimension: str, name: str, pairs: Sequence[_Pair], test: Test) -> GroupComparison:
    cells = _cells(pairs)
    p = _probability(test, cells, *_estimates(pairs, _clusters(pairs), test))
    values = _value([pair.first for pair in pairs]), _value([pair.second for pair in pairs])
    return GroupComparison(dimension, name, len(pairs), *values, cells, p, None)


def _adjusted(probabilities: Sequence[float | None]) -> list[float | None]:
    """By Holm's procedure over those that exist."""
    adjusted = iter(holm([p for p in probabilities if p is not None]))
    return [None if p is None else next(adjusted) for p in probabilities]
