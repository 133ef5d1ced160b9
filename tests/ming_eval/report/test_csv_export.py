"""Points as comma-separated values."""

from __future__ import annotations

import csv
import io

from ming_eval.report.csv_export import to_csv
from tests.ming_eval.factories import make_point, make_summary


def test_one_row_per_point_with_dotted_names_and_nothing_for_what_does_not_exist() -> None:
    first = make_summary(make_point(1, 100.0), make_point(2, None), run="r1")
    second = make_summary(make_point(4, 250.5, failures={"reset": 2}), run="r2")
    rows = list(csv.DictReader(io.StringIO(to_csv([first, second]))))
    assert [(row["run"], row["concurrency"], row["output_tokens_per_s"]) for row in rows] == [
        ("r1", "1", "100.0"),
        ("r1", "2", ""),
        ("r2", "4", "250.5"),
    ]
    assert (rows[0]["ttft_ms.p99"], rows[0]["failures.reset"], rows[2]["failures.reset"]) == ("115.0", "", "2")
    assert rows[0]["backend"] == "a"
    assert (rows[0]["outages"], rows[0]["passes"]) == ("[]", "[]")  # JSON, which others can read
