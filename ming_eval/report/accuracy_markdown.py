"""`summary.md` of an accuracy run: figures, what they estimate, groups, replies, caveats, how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ming_eval.accuracy_results import AccuracySummary, SuiteResult
from ming_eval.manifest import Manifest
from ming_eval.metrics.intervals import Estimate
from ming_eval.report.accuracy_table import group_grid, headline_grid, interval, share, value_cells
from ming_eval.report.document import bullets, how_to_repeat, named, warnings
from ming_eval.report.grid import Grid, number
from ming_eval.results import Backend

_NUM_BEST = 5


def accuracy_markdown(summary: AccuracySummary, manifest: Manifest) -> str:
    """The whole document."""
    sections = [
        f"# Accuracy of {', '.join(named(backend) for backend in summary.backends)}",
        *warnings(summary),
        _first_line(summary, manifest),
        headline_grid(summary.suites).markdown().rstrip(),
        *(section for suite in summary.suites for section in _suite_sections(suite)),
        *how_to_repeat(summary, manifest),
        f"To score the stored replies again, without a server:\n\n```sh\nming-eval rescore {summary.run}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _first_line(summary: AccuracySummary, manifest: Manifest) -> str:
    servers = "; ".join(_server(backend) for backend in summary.backends)
    concurrency = summary.settings.get("concurrency")
    protocols = ", ".join(dict.fromkeys(_protocol(suite) for suite in summary.suites))
    return f"{servers}; {concurrency} requests at a time; {manifest.started}; {protocols}."


def _server(backend: Backend) -> str:
    where = "the bundled engine" if backend.launched else backend.url
    version = f" {backend.version}" if backend.version else ""
    return f"{named(backend)} at {where}{version}, dialect {backend.dialect}"


def _protocol(suite: SuiteResult) -> str:
    data = suite.data
    revision = f" at {data.revision}" if data.revision else ""
    source = "the bundled sample" if data.is_sample else f"{data.name}{revision} (digest {data.digest[:16]})"
    return f"{suite.suite} v{suite.version} by {suite.protocol} on {source}"


# --- A suite -----------------------------------------------------------------------------------------------------


def _suite_sections(suite: SuiteResult) -> Iterator[str]:
    yield f"## {suite.title} ({suite.suite}, {suite.backend})"
    yield "### What the figures estimate"
    yield estimand_grid(suite).markdown().rstrip()
    for dimension in suite.groups:
        yield f"### By {dimension}"
        yield group_grid(suite, dimension).markdown().rstrip()
        if best := best_groups(suite, dimension):
            yield best
    yield "### Replies"
    yield bullets(reply_lines(suite))
    yield f"Prompt (`{suite.protocol}`, at most {suite.max_tokens} tokens, temperature {suite.temperature:g}):"
    yield f"```text\n{suite.prompt}\n```"
    if suite.protocol_settings:
        yield "Also of this protocol:"
        yield bullets([f"{name}: {value!r}" for name, value in suite.protocol_settings.items()])
    if suite.published:
        yield "### Published figures"
        yield _published(suite).markdown().rstrip()
    if suite.caveats:
        yield "### Caveats"
        yield bullets(suite.caveats)


def estimand_grid(suite: SuiteResult) -> Grid:
    """What can be estimated from the replies, with intervals and methods."""
    rows = [
        ["accuracy, all planned", share(suite.accuracy), interval(suite.ci_low, suite.ci_high), suite.interval],
        ["accuracy, answered only", share(suite.accuracy_answered), "", "correct / (correct + wrong)"],
    ]
    if suite.metric != "accuracy" and suite.value is not None:
        rows.insert(0, [suite.metric, *value_cells(suite), suite.value_interval or ""])
    if not suite.is_unheard:
        rows += _further_rows(suite)
    if suite.accuracy_expected is not None and suite.unparsed:
        expected = "unparsed replies at the expected value of a random choice"
        rows.append(["accuracy, chance added", share(suite.accuracy_expected), "", expected])
    if suite.error or suite.skipped:
        rows.append(["possible accuracy", "", interval(suite.possible_low, suite.possible_high), "errors and skips"])
    rows += _stratum_rows(suite)
    rows += _repeat_rows(suite)
    if suite.detectable_difference is not None:
        power = "80 % power, 10 % of the items differing"
        power += "" if suite.clusters is None else "; items taken as independent, with clusters it is larger"
        rows.append(["smallest difference to another system", share(suite.detectable_difference), "", power])
    return Grid(["estimand", "value", "95 %", "method"], rows, num_labels=1)


def _further_rows(suite: SuiteResult) -> list[list[str]]:
    rows = [_other_row(suite, name, value) for name, value in suite.other_metrics.items()]
    if suite.value_per_item is not None:
        name, method = f"{suite.metric}, mean over items", "not weighted by length"
        rows.insert(0, [name, share(suite.value_per_item), "", method])
    return rows


def best_groups(suite: SuiteResult, dimension: str) -> str | None:
    """The last rows of a long table, which is sorted worst first, the other way round; None of a short one."""
    rows = suite.groups[dimension]
    if len(rows) <= 2 * _NUM_BEST or suite.is_unheard:
        return None
    named = ", ".join(f"{row.name} {share(row.value)}" for row in reversed(rows[-_NUM_BEST:]))
    return f"Worst first in the table; best first: {named}."


def _other_row(suite: SuiteResult, name: str, value: float) -> list[str]:
    if name.startswith("similarity["):  # a cosine is no share
        return [name, f"{value:.3f}", "", "mean cosine over utterances"]
    if name == "high":
        count = f"{round(value * suite.planned)} of {suite.planned} utterances"
        return ["more than half as many errors as words", share(value), "", count]
    return [name, share(value), "", "ratio of sums"]


def _stratum_rows(suite: SuiteResult) -> list[list[str]]:
    rows = []
    if suite.macro is not None:
        rows.append([f"macro: mean over {suite.strata}", *_estimate(suite.macro)])
    if suite.weighted is not None:
        rows.append([f"weighted by size of {suite.strata}", *_estimate(suite.weighted)])
    if suite.clusters is not None:
        rows.append(["clusters", str(suite.clusters), "", "replies within one are not independent"])
    return rows


def _repeat_rows(suite: SuiteResult) -> list[list[str]]:
    rows = []
    if suite.repeat_sd is not None:
        rows.append(["standard deviation between repeats", share(suite.repeat_sd), "", f"{suite.repeats} repeats"])
    if suite.agreement is not None:
        rows.append(["items answered alike each time", share(suite.agreement), "", f"{suite.option_order} options"])
    return rows


def _estimate(estimate: Estimate) -> list[str]:
    return [share(estimate.value), interval(estimate.low, estimate.high), estimate.method]


def reply_lines(suite: SuiteResult) -> list[str]:
    """How the replies came and how they were read."""
    lines = [
        f"Outcomes: {suite.correct} correct, {suite.wrong} wrong, {suite.unparsed} unparsed, {suite.error} errors, "
        f"{suite.skipped} skipped of {suite.planned} planned; parse rate {share(suite.parse_rate)}",
        f"Rules: {_shares(suite.rules, suite.planned - suite.error - suite.skipped)}",
        f"Unparsed: {_counts(suite.unparsed_reasons)}",
        f"Errors and skips: {_counts(suite.failures)}",
        f"Finish reasons: {_counts(suite.finish_reasons)}",
    ]
    if suite.gold:
        majority = f"; always naming the most frequent letter scores {share(suite.majority_accuracy)}"
        lines.append(f"Predicted letters: {_counts(suite.predicted)}; gold letters: {_counts(suite.gold)}{majority}")
    latency = suite.latency_ms
    times = f"latency p50 {number(latency.p50)} ms, p95 {number(latency.p95)} ms" if latency.count else "no latencies"
    if len(suite.answered_by) > 1:
        lines.append(f"Answered by: {_counts(suite.answered_by)}")
    return [
        *lines,
        f"{suite.requests} requests sent in {number(suite.wall_s)} s ({number(suite.requests_per_s)} req/s), "
        f"{suite.reused} answers taken over, {suite.retried} retried; {times}",
    ]


def _shares(counts: Mapping[str, int], replies: int) -> str:
    """How many of the replies each rule decided."""
    return ", ".join(f"{name} {count} ({share(count / replies)})" for name, count in counts.items()) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _published(suite: SuiteResult) -> Grid:
    rows = [["this run", suite.metric, value_cells(suite)[0], "measured", ""]]
    rows += [
        [each.model, each.metric, share(each.value), f"published: {each.source}", "; ".join(each.differences) or "none"]
        for each in suite.published
    ]
    return Grid(["model", "metric", "value", "source", "differences of protocol"], rows, num_labels=2)
