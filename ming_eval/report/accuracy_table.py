"""An accuracy run as tables: the headline, and one table for each reporting dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ming_eval.accuracy_results import AccuracySummary, GroupRow, SuiteResult
from ming_eval.report.grid import MISSING, Grid, number


def accuracy_text(summary: AccuracySummary) -> str:
    """What `accuracy` prints on standard output."""
    lines = [headline_grid(summary.suites).text()]
    lines += _caveat_lines(summary.suites)
    verdict = summary.verdict
    if verdict.exit_code != 0:
        partial = "; the figures above are partial" if summary.partial else ""
        lines += ["", f"{verdict.status}: {verdict.reason}{partial}"]
    return "\n".join(lines).rstrip("\n") + "\n"


def _caveat_lines(suites: Sequence[SuiteResult]) -> list[str]:
    """Each caveat of a suite once: with the backend that it is about, unless it is about all of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for suite in suites:
        for caveat in suite.caveats:
            found.setdefault((suite.suite, caveat), []).append(suite.backend)
    asked = Counter(suite.suite for suite in suites)
    return [
        f"{name}: {caveat}" if len(backends) == asked[name] else f"{name} ({', '.join(backends)}): {caveat}"
        for (name, caveat), backends in found.items()
    ]


def headline_grid(suites: Sequence[SuiteResult]) -> Grid:
    """One line a suite: its metric with the 95 % interval, and how the replies came."""
    header = ["suite", "backend", "protocol", "items", "metric", "value", "95 %", "parsed", "errors", "s", "req/s"]
    return Grid(header, [_cells(suite) for suite in suites], num_labels=3)


def group_grid(suite: SuiteResult, dimension: str) -> Grid:
    """Every value of a dimension, worst first."""
    rows = [_group_cells(row, is_unheard=suite.is_unheard) for row in suite.groups[dimension]]
    return Grid([dimension, "correct / total", suite.metric, "95 %", ""], rows, num_labels=1)


def share(value: float | None) -> str:
    """A share as `78.9 %`."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Bounds as `[73.8, 83.3]`, in percent."""
    return MISSING if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def _cells(suite: SuiteResult) -> list[str]:
    return [
        suite.suite,
        suite.backend,
        suite.protocol,
        str(suite.items),
        suite.metric,
        *value_cells(suite),
        share(suite.parse_rate),
        str(suite.error) + (f", {suite.skipped} skipped" if suite.skipped else ""),
        number(suite.wall_s),
        number(suite.requests_per_s),
    ]


def value_cells(suite: SuiteResult) -> list[str]:
    """Value and interval; none of a suite without any reply."""
    if suite.is_unheard:
        return [MISSING, MISSING]
    return [share(suite.value), interval(suite.value_low, suite.value_high)]


def _group_cells(row: GroupRow, *, is_unheard: bool) -> list[str]:
    counts = f"{number_of(row.correct)} / {row.total}" if row.correct is not None else str(row.total)
    return [
        row.name,
        counts,
        MISSING if is_unheard else share(row.value),
        MISSING if is_unheard else interval(row.low, row.high),
        "too small to rank" if row.too_small else "",
    ]


def number_of(count: float) -> str:
    """A count that repeats can make fractional: `5`, `4.67`."""
    return str(round(count)) if abs(count - round(count)) < 1e-9 else f"{count:.2f}"
