"""`summary.md` of a sweep: the table, what it shows, and how to repeat it."""

from __future__ import annotations

import re

from ming_eval.manifest import Manifest
from ming_eval.report.document import bullets, how_to_repeat, named, warnings
from ming_eval.report.observations import observations
from ming_eval.report.sweep_table import sweep_grid, table_notes
from ming_eval.report.workload_tables import workload_tables
from ming_eval.results import Summary

_LEGEND = (
    "Times in milliseconds unless the header says s. c: requests in flight. E2E: sent to last output; TTFT: sent to "
    "first output; TPOT: mean over requests of the time per output token after the first event; ITL: token-weighted "
    "gap between tokens. Failed requests enter no latency and no rate."
)


def sweep_markdown(summary: Summary, manifest: Manifest, *more: str) -> str:
    """The whole document; `more` are sections that go before the last one."""
    sections = [
        f"# {_title(summary)}",
        *warnings(summary),
        sweep_grid(summary).markdown().rstrip(),
        *map(_literal, table_notes(summary)),
        _LEGEND,
        *(f"## {title}\n\n{grid.markdown().rstrip()}\n\n{text}" for title, text, grid in workload_tables(summary)),
        "## Observations",
        bullets(observations(summary)),
        *more,
        *how_to_repeat(summary, manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _literal(text: str) -> str:
    """`text` as it is, whatever a server has put into it."""
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", text)


def _title(summary: Summary) -> str:
    return "Sweep of " + ", ".join(named(backend) for backend in summary.backends)
