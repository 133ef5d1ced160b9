from dataclasses import replace

from ming_eval.report.sweep_table import sweep_grid, table_notes
from ming_eval.results import Summary
from tests.ming_eval.factories import make_point, make_summary


def with_settings(summary: Summary, **values: object) -> Summary:
    return replace(summary, settings={**summary.settings, **values})


def test_a_point_that_was_cut_short_is_marked_and_explained() -> None:
    summary = make_summary(make_point(1), make_point(4, None, requests=2, planned=16, interrupted=True))
    assert [row[1] for row in sweep_grid(summary).rows] == ["1", "4*"]
    assert table_notes(summary) == ["* interrupted: 2 of 16 requests; no rates, since what was in flight was given up"]


def test_the_room_of_a_point_that_time_ends_is_no_number_of_requests() -> None:
    cut = make_point(4, None, requests=2, planned=100_000, interrupted=True)
    (note,) = table_notes(with_settings(make_summary(cut), duration_s=60.0))
    assert note.startswith("* interrupted: 2 requests;")


def test_points_are_told_apart_where_several_were_cut_short() -> None:
    cut = [make_point(4, None, backend=name, requests=2, planned=16, interrupted=True) for name in ("a", "b")]
    assert [note.partition(":")[0] for note in table_notes(make_summary(*cut))] == [
        "* a c=4 interrupted",
        "* b c=4 interrupted",
    ]


def test_each_class_of_failures_has_one_example() -> None:
    first = make_point(1, failed=2, failure_examples={"reset": "connection reset", "http_5xx": "500: first"})
    second = make_point(2, failed=1, failure_examples={"http_5xx": "500: second"})
    assert table_notes(make_summary(first, second)) == [
        "http_5xx, for example: 500: first",
        "reset, for example: connection reset",
    ]


def test_an_example_is_one_short_line_without_control_characters() -> None:
    point = make_point(1, failed=1, failure_examples={"http_5xx": "a\n\tb \x1b[31m" + "x" * 300})
    (note,) = table_notes(make_summary(point))
    text = note.removeprefix("http_5xx, for example: ")
    assert text.startswith("a b ?[31mxxx")
    assert (len(text), text[-1]) == (200, "…")
