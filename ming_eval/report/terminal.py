"""A sweep as plain text: what `sweep` and `report` print on standard output."""

from __future__ import annotations

import textwrap

from ming_eval.report.observations import observations
from ming_eval.report.sweep_table import sweep_grid, table_notes
from ming_eval.report.workload_tables import workload_tables
from ming_eval.results import Summary


def sweep_text(summary: Summary) -> str:
    """The table, what it shows, and how the run ended where that was not well."""
    verdict = summary.verdict
    lines = [sweep_grid(summary).text(), "times in ms unless the header says s; c: requests in flight"]
    lines += [*table_notes(summary), ""]
    for title, _, grid in workload_tables(summary):
        lines += [title, grid.text()]
    lines += [textwrap.fill(line, 100, initial_indent="- ", subsequent_indent="  ") for line in observations(summary)]
    if verdict.exit_code != 0:
        partial = "; the figures above are partial" if summary.partial else ""
        lines += ["", f"{verdict.status}: {verdict.reason}{partial}"]
    return "\n".join(lines) + "\n"
