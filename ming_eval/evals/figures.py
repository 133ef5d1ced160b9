"""The figures of a suite: its metric, what else can be estimated from the same replies, and tables by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from math import fsum
from statistics import stdev

from ming_eval.accuracy_results import GroupRow
from ming_eval.evals.item import Item, Kind, Outcome
from ming_eval.evals.plan import Plan
from ming_eval.evals.sampling import stratum_of
from ming_eval.evals.scored import RATE_KINDS, Scored, by_item, clusters, has_subtitles, item_means
from ming_eval.evals.scoring.text import TEXT_METRICS
from ming_eval.evals.scoring.transcript import ERRORS
from ming_eval.metrics import intervals
from ming_eval.metrics.intervals import Estimate

TOO_SMALL = 30  # items below which a group is not ranked
SUBTITLES = "subtitles"  # the dimension of a protocol that shows them, where some items have none


def accuracy(scored: Sequence[Scored]) -> Estimate | None:
    """Right replies of all planned ones; None without any."""
    return _mean([each.is_right for each in scored], scored)


def metric_value(plan: Plan, scored: Sequence[Scored]) -> Estimate | None:
    """The suite's own metric: accuracy, a graded value of texts, or an error rate as a ratio of sums."""
    if plan.suite.kind in RATE_KINDS:
        pairs = [each.score.tallies[ERRORS] for each in scored]
        return intervals.ratio_of_sums([over for over, _ in pairs], [under for _, under in pairs], clusters(scored))
    if plan.suite.kind is Kind.TEXT and plan.suite.score.metric in TEXT_METRICS:
        return _mean([each.score.value for each in scored], scored)
    return accuracy(scored)


def value_per_item(plan: Plan, scored: Sequence[Scored]) -> float | None:
    """Mean of the error rates of single utterances, which part of the literature reports; None for other kinds."""
    if plan.suite.kind not in RATE_KINDS or not scored:
        return None
    return fsum(each.score.value for each in scored) / len(scored)


def other_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Ratios of sums of everything that the scorer tallied besides the metric itself."""
    over: dict[str, float] = defaultdict(float)
    under: dict[str, float] = defaultdict(float)
    for each in scored:
        for name, (numerator, denominator) in each.score.tallies.items():
            over[name] += numerator
            under[name] += denominator
    return {name: over[name] / under[name] for name in over if name != ERRORS and under[name]}


def expected_accuracy(scored: Sequence[Scored]) -> float | None:
    """Accuracy where an unparsed reply counts what a random choice would be worth; None without choices."""
    if not scored or not any(each.item.choices for each in scored):
        return None
    guesses = fsum(
        1 / len(each.item.choices) for each in scored if each.score.outcome is Outcome.UNPARSED and each.item.choices
    )
    return (fsum(each.is_right for each in scored) + guesses) / len(scored)


def macro(plan: Plan, scored: Sequence[Scored]) -> Estimate | None:
    """Mean of the strata's accuracies; None without strata."""
    values, keys = _by_stratum(plan, scored)
    if plan.strata is None or not values:
        return None
    return intervals.stratified(values, dict.fromkeys(values, 1 / len(values)), _sizes(plan), keys)


def weighted(plan: Plan, scored: Sequence[Scored]) -> Estimate | None:
    """Accuracies of the strata weighted by their size in the full set; None unless only a sample was asked."""
    values, keys = _by_stratum(plan, scored)
    if plan.strata is None or not values or not plan.is_sampled:
        return None
    total = sum(plan.stratum_sizes[name] for name in values)
    weights = {name: plan.stratum_sizes[name] / total for name in values}
    return intervals.stratified(values, weights, _sizes(plan), keys)


def repeat_sd(plan: Plan, scored: Sequence[Scored]) -> float | None:
    """Standard deviation of the accuracy from repeat to repeat; None with one."""
    if plan.options.repeats < 2:
        return None
    repeats = [[each.is_right for each in scored if each.sample.repeat == k] for k in range(plan.options.repeats)]
    return stdev(fsum(each) / len(each) for each in repeats)


def agreement(scored: Sequence[Scored]) -> float | None:
    """Share of items to which every reply gave the same answer; None where each was asked once."""
    items = by_item(scored)
    if all(len(replies) < 2 for replies in items.values()):
        return None
    return sum(_is_consistent(replies) for replies in items.values()) / len(items)


def group_tables(plan: Plan, scored: Sequence[Scored]) -> dict[str, tuple[GroupRow, ...]]:
    """One table for each reporting dimension, worst first."""
    dimensions = dict.fromkeys(name for each in scored for name in each.item.group)
    tables = {name: _table(plan, scored, _value_of(name)) for name in dimensions}
    if plan.protocol.subtitles is not None:
        rows = _table(plan, scored, lambda item: "with" if has_subtitles(item) else "without")
        tables |= {SUBTITLES: rows} if len(rows) > 1 else {}
    return tables


def _mean(values: Sequence[float], scored: Sequence[Scored]) -> Estimate | None:
    keys = clusters(scored)
    return intervals.mean(values) if keys is None else intervals.clustered(values, keys)


def _by_stratum(
    plan: Plan, scored: Sequence[Scored]
) -> tuple[dict[str, list[float]], dict[str, list[Hashable]] | None]:
    """Means of the items of each stratum, and the clusters that they belong to; None where no item has one."""
    items = {each.item.id: each.item for each in scored}
    values: dict[str, list[float]] = defaultdict(list)
    keys: dict[str, list[Hashable]] = defaultdict(list)
    for name, value in item_means(scored).items():
        item = items[name]
        stratum = stratum_of(item, plan.strata)
        values[stratum].append(value)
        keys[stratum].append(("item", name) if item.cluster is None else ("cluster", item.cluster))
    has_clusters = any(item.cluster is not None for item in items.values())
    return dict(values), dict(keys) if has_clusters else None


def _sizes(plan: Plan) -> dict[str, int] | None:
    return dict(plan.stratum_sizes) if plan.is_sampled else None


def _is_consistent(replies: Sequence[Scored]) -> bool:
    answers = {each.score.extracted if each.choice is None else each.choice for each in replies}
    return len(answers) == 1 and answers != {None}


def _value_of(dimension: str) -> Callable[[Item], str | None]:
    return lambda item: item.group.get(dimension)


def _table(plan: Plan, scored: Sequence[Scored], group_of: Callable[[Item], str | None]) -> tuple[GroupRow, ...]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        if (name := group_of(each.item)) is not None:
            groups[name].append(each)
    rows = [row for name, members in groups.items() if (row := _row(plan, name, members)) is not None]
    is_rate = plan.suite.kind in RATE_KINDS
    return tuple(sorted(rows, key=lambda row: (-row.value if is_rate else row.value, row.name)))


def _row(plan: Plan, name: str, members: Sequence[Scored]) -> GroupRow | None:
    total = len(by_item(members))
    if plan.suite.kind in RATE_KINDS:
        rate = metric_value(plan, members)
        return None if rate is None else GroupRow(name, None, total, rate.value, rate.low, rate.high, total < TOO_SMALL)
    means = list(item_means(members).values())
    share = intervals.mean(means)
    if share is None:
        return None
    return GroupRow(name, fsum(means), total, share.value, share.low, share.high, total < TOO_SMALL)
