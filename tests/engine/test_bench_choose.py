"""Which way of a decode step's kernels a benchmark's figures speak for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.bench.choose import advice, choose, compare_tokens, main


def row(batch: int, tok_s: float, **changes: Any) -> dict[str, Any]:
    good = {"failed": 0, "valid": True, "equal_tokens": 40.0, "num_tokens": 128}
    return {"batch": batch, "decode_tok_s": tok_s} | good | changes


def way(*rows: dict[str, Any], exit_code: int = 0) -> dict[str, Any]:
    return {"exit_code": exit_code, "rows": list(rows)}


MEASURED = way(row(1, 400.0), row(8, 1000.0))


def test_the_way_that_gains_most_over_all_sizes_is_taken() -> None:
    """1.5 and 0.8 make 1.095; 1.1 and 1.1 make more."""
    uneven, even = way(row(1, 600.0), row(8, 800.0)), way(row(1, 440.0), row(8, 1100.0))
    results = {"plain": MEASURED, "uneven": uneven, "even": even}
    assert choose(results) == "even"
    lines = [" ".join(line.split()) for line in advice(results)]
    assert lines[0].startswith('choice: DEFAULT = "even"')
    assert "uneven x 1.095, equal for 40.0 of 128 tokens or more" in lines
    assert lines[-2:] == ["batch 1: uneven, 600.0 tok/s, x 1.500", "batch 8: even, 1100.0 tok/s, x 1.100"]


def test_a_gain_within_the_noise_changes_nothing() -> None:
    assert choose({"plain": MEASURED, "join": way(row(1, 404.0), row(8, 1010.0))}) == "plain"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (way(row(1, 900.0, equal_tokens=1.0), row(8, 2000.0)), "batch 1: equal for 1.0 of 128 tokens"),
        (way(row(1, 900.0), row(8, 2000.0, failed=1)), "batch 8: 1 failed"),
        (way(row(1, 900.0), row(8, 2000.0, valid=False)), "batch 8: too few experts"),
        (way(row(1, 900.0)), "no rate at 8"),
        (way(row(1, 900.0), row(8, 2000.0), exit_code=1), "exit code 1"),
        (way(exit_code=1), "no rate"),
    ],
)
def test_a_way_that_is_not_right_is_not_taken_however_fast(found: dict[str, Any], why: str) -> None:
    results = {"plain": MEASURED, "fast": found}
    assert choose(results) == "plain"
    assert any(line.split("out: ")[-1] == why for line in advice(results))
    if why == "no rate at 8":
        return  # of the first way nothing else is expected than what it has
    wrong_way_round = {"fast": found, "plain": MEASURED}
    assert choose(wrong_way_round) is None
    assert advice(wrong_way_round) == [f"nothing to compare with: fast: {why}"]


def test_streams_are_alike_up_to_where_they_part() -> None:
    first = {2: [[5, 6, 7, 8], [1, 2, 3, 4]]}
    rows = [{"batch": 2, "tokens": [[5, 6, 9, 8], [1, 2, 3, 4]]}, {"batch": 4, "tokens": [[1]]}]
    compare_tokens(rows, first)
    assert rows == [
        {"batch": 2, "equal_tokens": 3.0, "num_tokens": 4},
        {"batch": 4, "equal_tokens": None, "num_tokens": 1},
    ]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "variants.json"
    assert main([str(path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    for other in ("[]", "{}", "no JSON"):
        path.write_text(other)
        assert main([str(path)]) == 2
        assert "is no file of `engine.bench --variants" in capsys.readouterr().err
    path.write_text(json.dumps({"variants": {"plain": MEASURED, "lean": way(row(1, 480.0), row(8, 1200.0))}}))
    capsys.readouterr()
    assert main([str(path), "--name"]) == 0
    assert capsys.readouterr().out == "lean\n"
    path.write_text(json.dumps({"variants": {}}))
    assert main([str(path), "--name"]) == 1
    assert capsys.readouterr().out == "\n"
    assert main([str(path)]) == 1
    assert capsys.readouterr().out == "nothing to compare with: no way was measured\n"
