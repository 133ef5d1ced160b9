"""A plan and its scored replies -> the suite's result and the lines of `items.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from ming_eval.accuracy_results import Comparable, ItemResult, SuiteResult
from ming_eval.evals import figures
from ming_eval.evals.caveats import caveats
from ming_eval.evals.item import Instruction, Kind, Outcome
from ming_eval.evals.ordering import OptionOrder
from ming_eval.evals.plan import Method, Plan
from ming_eval.evals.responses import Response
from ming_eval.evals.scored import RATE_KINDS, Scored, clusters, count
from ming_eval.evals.suite import Published
from ming_eval.metrics import paired, stats
from ming_eval.metrics.intervals import NO_INTERVAL
from ming_eval.results import Distribution


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a suite was run: where, how long, how many answers were taken over, which share of errors is allowed."""

    backend: str
    model: str | None
    wall_s: float | None
    reused: int
    max_error_rate: float


def summarise(plan: Plan, scored: Sequence[Scored], conduct: Conduct) -> SuiteResult:
    """Everything that is reported of a suite."""
    outcomes = {outcome: count(scored, outcome) for outcome in Outcome}
    planned, correct = len(scored), outcomes[Outcome.CORRECT]
    lost = outcomes[Outcome.ERROR] + outcomes[Outcome.SKIPPED]
    answered = correct + outcomes[Outcome.WRONG]
    accuracy = figures.accuracy(scored)
    assert accuracy is not None, "a plan has items"
    value = None if lost == planned else figures.metric_value(plan, scored)
    has_interval = value is not None and value.method != NO_INTERVAL
    groups = figures.group_tables(plan, scored)
    is_complete = _is_complete(scored, outcomes, conduct.max_error_rate)
    replies = [each.response for each in scored if each.response is not None and each.response.attempts]
    sent = len(replies) - conduct.reused
    return SuiteResult(
        suite=plan.name,
        version=plan.suite.suite.version,
        title=plan.suite.suite.title or plan.suite.name,
        kind=plan.suite.kind,
        backend=conduct.backend,
        model=conduct.model,
        protocol=plan.protocol_name,
        protocol_hash=plan.protocol_hash,
        method=plan.options.method,
        prompt=plan.protocol.text,
        max_tokens=plan.protocol.max_tokens,
        temperature=plan.protocol.temperature,
        option_order=plan.options.order,
        data=plan.origin,
        items=plan.num_items,
        repeats=plan.options.repeats,
        planned=planned,
        correct=correct,
        wrong=outcomes[Outcome.WRONG],
        unparsed=outcomes[Outcome.UNPARSED],
        error=outcomes[Outcome.ERROR],
        skipped=outcomes[Outcome.SKIPPED],
        complete=is_complete,
        accuracy=accuracy.value,
        ci_low=accuracy.low,
        ci_high=accuracy.high,
        interval=accuracy.method,
        accuracy_answered=correct / answered if answered else None,
        possible_low=correct / planned,
        possible_high=(correct + lost) / planned,
        parse_rate=_share(answered, answered + outcomes[Outcome.UNPARSED]),
        accuracy_expected=figures.expected_accuracy(scored),
        metric=plan.metric,
        value=None if value is None else value.value,
        value_low=value.low if value is not None and has_interval else None,
        value_high=value.high if value is not None and has_interval else None,
        value_interval=None if value is None else value.method,
        lower_is_better=plan.suite.kind in RATE_KINDS,
        value_per_item=None if value is None else figures.value_per_item(plan, scored),
        other_metrics={} if value is None else figures.other_metrics(scored),
        strata=plan.strata,
        macro=None if value is None else figures.macro(plan, scored),
        weighted=None if value is None else figures.weighted(plan, scored),
        clusters=_num_clusters(scored),
        repeat_sd=figures.repeat_sd(plan, scored),
        agreement=figures.agreement(scored),
        detectable_difference=paired.detectable_difference(plan.num_items),
        rules=_counts(each.score.rule for each in scored),
        unparsed_reasons=_counts(_reason(each, Outcome.UNPARSED) for each in scored),
        failures=_counts(_reason(each, Outcome.ERROR) or _reason(each, Outcome.SKIPPED) for each in scored),
        finish_reasons=_counts(response.finish_reason for response in replies),
        predicted=_letters(each.score.extracted for each in scored) if plan.suite.kind is Kind.MCQ else {},
        gold=_letters(map(_gold_letter, scored)),
        majority_accuracy=_majority(scored),
        groups=groups,
        published=_comparable(plan),
        wall_s=conduct.wall_s,
        requests=sent,
        reused=conduct.reused,
        retried=sum(len(response.attempts) > 1 for response in replies),
        requests_per_s=sent / conduct.wall_s if conduct.wall_s else None,
        latency_ms=_latency(replies),
        prompt_tokens=_total(response.prompt_tokens for response in replies),
        completion_tokens=_total(response.completion_tokens for response in replies),
        caveats=caveats(
            plan,
            scored,
            is_complete=is_complete,
            num_small_groups=sum(row.too_small for rows in groups.values() for row in rows),
        ),
        answered_by=_counts(response.backend for response in replies),
        protocol_settings=further_settings(plan),
    )


def _is_complete(scored: Sequence[Scored], outcomes: Mapping[Outcome, int], max_error_rate: float) -> bool:
    """True when every reply was asked for, and neither errors nor skipped items are more than allowed."""
    most = max(outcomes[Outcome.ERROR], outcomes[Outcome.SKIPPED])
    return all(each.response is not None for each in scored) and most <= max_error_rate * len(scored)


def item_results(plan: Plan, scored: Iterable[Scored], backend: str) -> list[ItemResult]:
    """One line for each planned reply; texts of a set that must not be redistributed are left out."""
    return [_item_result(plan, each, backend) for each in scored]


def _item_result(plan: Plan, each: Scored, backend: str) -> ItemResult:
    response, sample = each.response, each.sample
    return ItemResult(
        suite=plan.name,
        backend=backend,
        id=each.item.id,
        repeat=sample.repeat,
        rotation=sample.rotation,
        outcome=each.score.outcome,
        reason=each.score.reason,
        rule=each.score.rule,
        extracted=each.score.extracted,
        gold=_gold(plan, each),
        value=each.score.value,
        latency_s=None if response is None else response.first_latency_s,
        prompt_tokens=None if response is None else response.prompt_tokens,
        completion_tokens=None if response is None else response.completion_tokens,
        finish_reason=None if response is None else response.finish_reason,
        attempts=0 if response is None else len(response.attempts),
        group=each.item.group,
        cluster=each.item.cluster,
        response=None if response is None or not response.key else response.key,
        order=None if plan.options.order is OptionOrder.ORIGINAL else sample.order,
        tallies=each.score.tallies,
    )


def _gold(plan: Plan, each: Scored) -> object:
    if (letter := _gold_letter(each)) is not None:
        return letter
    if not plan.suite.suite.redistribute:
        return None
    answer = each.item.answer
    if isinstance(answer, tuple):
        return [part.id if isinstance(part, Instruction) else part for part in answer]
    return answer


def _gold_letter(each: Scored) -> str | None:
    answer = each.item.answer
    return ascii_uppercase[answer] if isinstance(answer, int) and each.item.choices else None


def _reason(each: Scored, outcome: Outcome) -> str | None:
    return each.score.reason if each.score.outcome is outcome else None


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    return {str(name): number for name, number in Counter(each for each in values if each is not None).most_common()}


def _letters(values: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(each for each in values if each is not None and len(each) == 1).items()))


def _majority(scored: Sequence[Scored]) -> float | None:
    """Accuracy of always naming the most frequent gold letter."""
    counts = Counter(letter for each in scored if (letter := _gold_letter(each)) is not None)
    return max(counts.values()) / len(scored) if counts else None


def _num_clusters(scored: Sequence[Scored]) -> int | None:
    keys = clusters(scored)
    return None if keys is None else len(set(keys))


def further_settings(plan: Plan) -> dict[str, Any]:
    """What the protocol sets beyond the fields that the result has by name."""
    shown = ("text", "max_tokens", "temperature")
    return {name: value for name, value in plan.protocol.choices_made.items() if name not in shown}


def _comparable(plan: Plan) -> tuple[Comparable, ...]:
    """Published figures beside this run's; none beside a sample, which is another set."""
    if plan.origin.is_sample:
        return ()
    return tuple(
        Comparable(each.model, each.metric, each.value, each.source, (*each.differences, *_beyond(plan, each)))
        for each in plan.suite.published
        if each.differences is not None
    )


def _beyond(plan: Plan, published: Published) -> Iterator[str]:
    """Differences that follow from how this run was asked."""
    full = plan.suite.source.rows
    if full is not None and plan.num_items != full:
        yield f"here {plan.num_items} items, the full set has {full}"
    if published.protocol is not None and published.protocol != plan.protocol_name:
        yield f"protocol {published.protocol}, here {plan.protocol_name}"
    if plan.options.method is not Method.GENERATE:
        yield f"written answers, here {plan.options.method}"
    if plan.options.max_tokens is not None:
        yield f"here at most {plan.options.max_tokens} tokens an answer"
    if plan.options.extra:
        yield f"here with {', '.join(plan.options.extra)} in each request"


def _latency(responses: Sequence[Response]) -> Distribution:
    found = stats.summarise(
        None if response.first_latency_s is None else 1000 * response.first_latency_s for response in responses
    )
    if found is None:
        return Distribution()
    return Distribution(found.count, found.mean, found.p50, found.p95, found.p99, found.min, found.max)


def _total(counts: Iterable[int | None]) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if known else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
