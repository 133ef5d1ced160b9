"""Spans taken out of records, by hand."""

from __future__ import annotations

from ming_eval.metrics.cutting import cut_out
from ming_eval.types import Outage
from tests.ming_eval.factories import make_record


def test_times_after_a_span_move_forward_and_times_in_it_to_its_start() -> None:
    record = make_record(
        intended_s=1.0,
        sent_s=3.0,
        first_output_s=4.5,
        last_output_s=8.0,
        done_s=9.0,
        output_times_s=(4.5, 5.0, 7.0, 8.0),
    )
    (cut,) = cut_out([record], [Outage(4.0, 6.0)])
    assert (cut.intended_s, cut.sent_s, cut.first_output_s, cut.last_output_s, cut.done_s) == (1.0, 3.0, 4.0, 6.0, 7.0)
    assert cut.output_times_s == (4.0, 4.0, 5.0, 6.0)


def test_spans_that_overlap_count_once() -> None:
    (cut,) = cut_out([make_record(sent_s=0.0, done_s=10.0)], [Outage(3.0, 5.0), Outage(1.0, 2.0), Outage(4.0, 6.0)])
    assert cut.done_s == 6.0  # 10 less 1 to 2 and 3 to 6


def test_without_spans_nothing_changes() -> None:
    records = [make_record()]
    assert cut_out(records, []) == records
