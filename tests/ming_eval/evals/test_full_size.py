from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.accuracy_full import NUM_ITEMS

# In a process of its own: the peak of a process's children counts every child that it ever had.
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from tests.benchmarks.accuracy_full import run_all
print(json.dumps(asdict(run_all(Path(sys.argv[1])))))
"""


@pytest.mark.slow
def test_a_set_of_the_size_of_mmlu_gives_the_known_score_to_the_last_digit(tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT, str(tmp_path)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["correct"] == found["expected"]
    assert found["accuracy"] == found["expected"] / NUM_ITEMS
    assert found["peak_bytes"] < 2**30
