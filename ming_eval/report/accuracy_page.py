"""Sections of the HTML page that show an accuracy run: the headline, and each suite's figures and groups."""

from __future__ import annotations

from html import escape

from ming_eval.accuracy_results import AccuracySummary, SuiteResult
from ming_eval.manifest import Manifest, command_line
from ming_eval.report.accuracy_markdown import estimand_grid, reply_lines
from ming_eval.report.accuracy_table import group_grid, headline_grid
from ming_eval.report.document import facts
from ming_eval.report.html import Section, bullet_list, note, table, warning


def accuracy_sections(manifest: Manifest, summary: AccuracySummary) -> list[Section]:
    """The headline, every suite, and how to repeat it."""
    verdict = summary.verdict
    doubts = warning(f"{verdict.status}: {verdict.reason}") if verdict.exit_code != 0 else ""
    repeat = f"<pre>{escape(command_line(summary.command))}</pre>{bullet_list(facts(summary, manifest))}"
    return [
        Section("accuracy", "Accuracy", doubts + table(headline_grid(summary.suites))),
        *(_suite(index, suite) for index, suite in enumerate(summary.suites)),
        Section("repeat-accuracy", "How to repeat the accuracy run", repeat),
    ]


def _suite(index: int, suite: SuiteResult) -> Section:
    groups = "".join(f"<h3>By {escape(name)}</h3>{table(group_grid(suite, name))}" for name in suite.groups)
    body = (
        f"{table(estimand_grid(suite))}{groups}<h3>Replies</h3>{bullet_list(reply_lines(suite))}"
        f"<pre>{escape(suite.prompt)}</pre>{''.join(note(caveat) for caveat in suite.caveats)}"
    )
    return Section(f"suite-{index}", f"{suite.suite} ({suite.backend})", body)
