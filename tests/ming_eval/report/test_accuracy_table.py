"""The headline of an accuracy run, from suites whose replies are set by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ming_eval.evals.data import DataOptions
from ming_eval.evals.plan import AskOptions, make_plan
from ming_eval.evals.responses import Attempt
from ming_eval.evals.scored import score_all
from ming_eval.evals.summarise import Conduct, summarise
from ming_eval.report.accuracy_markdown import estimand_grid
from ming_eval.report.accuracy_table import group_grid, headline_grid
from ming_eval.types import Failure
from tests.ming_eval.evals.builders import MCQ_SUITE, answered, write_rows, write_suite


@pytest.mark.parametrize(
    ("failed", "sent", "value"),
    [(4, 4, "-"), (3, 3, "-"), (3, 4, "75.0 %")],
    ids=["all errors", "errors and one not sent", "one heard"],
)
def test_a_dead_server_has_no_word_error_rate(tmp_path: Path, failed: int, sent: int, value: str) -> None:
    """Each missing reply counts as every word lost, which says nothing of a model that was never heard."""
    text = MCQ_SUITE.replace('kind = "mcq"', 'kind = "transcript"') + '\n[score]\nmetric = "wer"\n'
    suite = write_suite(tmp_path / "said", text)
    rows = [{"id": f"u{i}", "question": "", "answer": "one two three", "group": {"shelf": "s"}} for i in range(4)]
    plan = make_plan(suite, AskOptions(data=DataOptions(str(write_rows(tmp_path / "said.jsonl", rows)))))
    replies = answered(plan, ["one two three"] * sent + [None] * (4 - sent))
    lost = (Attempt(0.1, Failure.CONNECT),)
    for key in list(replies)[:failed]:
        replies[key] = replace(replies[key], text="", finish_reason=None, attempts=lost)
    found = summarise(plan, score_all(plan, replies), Conduct("s", "m", 1.0, 0, 0.05))
    assert (found.error, found.skipped) == (failed, 4 - sent)
    assert (found.value is None) == (value == "-")
    (cells,) = headline_grid([found]).rows
    assert (cells[5], cells[6] == "-") == (value, value == "-")
    estimands = {row[0]: row[1] for row in estimand_grid(found).rows}
    assert {estimands.get(name, "-") for name in ("wer", "wer, mean over items")} == {value}
    assert [row[2] for row in group_grid(found, "shelf").rows] == [value]
