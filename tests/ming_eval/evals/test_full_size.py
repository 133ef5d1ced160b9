from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.accuracy_full import NUM_ITEMS, run_all


@pytest.mark.slow
def test_a_set_of_the_size_of_mmlu_gives_the_known_score_to_the_last_digit(tmp_path: Path) -> None:
    found = run_all(tmp_path)
    assert found.correct == found.expected
    assert found.accuracy == found.expected / NUM_ITEMS
    assert found.peak_bytes < 2**30
