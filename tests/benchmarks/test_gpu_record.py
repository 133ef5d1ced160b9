"""What has GPUs for minutes must not fail for a reason that a CPU could have told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.http_against_offline import compare, line

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "benchmarks" / "gpu_record.sh"


def point(
    concurrency: int, tok_s: float | None, share: float | None, failed: int = 0, cached: int = 0
) -> dict[str, Any]:
    server = None if share is None else {"distinct_experts": 100 * share, "expert_share": share}
    counts = {"requests": 4, "failed": failed, "prompt_tokens": 64 * (4 - failed), "cached_tokens": cached}
    return {"concurrency": concurrency, "output_tokens_per_s": tok_s, "server": server} | counts


def test_a_point_must_be_near_offline_with_as_many_experts() -> None:
    rates = [{"batch": b, "output_tok_s": 100.0 * b} for b in (1, 2, 4, 8, 16, 32, 64)]
    offline = {"rows": rates, "prompt_tokens": 64}
    points = [point(1, 94, 1.0), point(2, 185, 1.0), point(4, 500, 0.5), point(8, 790, 0.96, failed=1)]
    points += [point(16, None, None), point(32, 3200, 0.95), point(64, 6400, 1.0, cached=64)]
    rows = compare(offline, {"points": points})
    assert [row["ok"] for row in rows] == [True, False, False, False, False, True, False]
    assert [row["ratio"] for row in rows[:2]] == [0.94, 0.925]
    assert [row["computed_prompt_tokens"] for row in rows] == [64.0] * 6 + [48.0]
    assert [line(row).endswith("MISSED") for row in rows] == [False, True, True, True, True, False, True]


def record(out: Path, *steps: str, exit_code: int = 0, **variables: str) -> str:
    """The recording script on the CPU; its report."""
    env = os.environ | {"DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable} | variables
    done = subprocess.run(["bash", SCRIPT, out, *steps], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == exit_code, done.stderr
    return (out / "report.txt").read_text()


@pytest.mark.slow
def test_steps_without_time_are_skipped(tmp_path: Path) -> None:
    report = record(tmp_path, SECONDS_IN_ALL="0", GPUS="2")
    names = [text.split(":")[0].removeprefix("== ") for text in report.splitlines() if text.startswith("==")]
    first = "tests-gpu tests-ranks variants decode-bf16 http-bf16 decode-fp8 decode-fp8-alone "
    assert names == f"{first}decode-chosen tests-kernels".split()
    assert report.count("skipped") == len(names)
    left = report.splitlines()[-1].partition("left: ")[2]
    assert left == f"{first}tests-kernels", "nothing is chosen that could be left"
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.slow
def test_a_named_step_leaves_its_log_and_a_failure_ends_nothing(tmp_path: Path) -> None:
    report = record(tmp_path, "kernels", "nonsense", "http-bf16", COMMIT="abc1234", exit_code=2)
    assert "device cpu, abc1234" in report
    assert "== kernels: exit code 2" in report  # there is no GPU
    assert "== nonsense: no such step" in report
    assert "== http-bf16: skipped, there is no gpu-decode-bf16.json" in report
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        assert "logs/kernels.log" in logs.getnames()


@pytest.mark.slow
def test_each_test_is_on_record_as_soon_as_it_has_ended(tmp_path: Path) -> None:
    """All that want GPUs, divided between processes; here they say what they lack."""
    report = record(tmp_path, "tests-gpu", "tests-ranks", PROCESSES="2")
    kept = (tmp_path / "tests.txt").read_text().splitlines()
    assert all(" CUDA device(s), " in line or "needs a GPU" in line for line in kept if line.startswith("SKIPPED"))
    tests = [line.split(" tests/", 1)[1].partition(":")[0] for line in kept]
    marked = {path for path in map(str, sorted(ROOT.glob("tests/**/test_*.py"))) if is_for_gpus(Path(path))}
    assert {f"{ROOT}/tests/{test}" for test in tests} == marked
    counts = [line for line in report.splitlines() if line.startswith("tests-") and " skipped in " in line]
    assert [line.split(":")[0] for line in counts] == ["tests-gpu.0", "tests-gpu.1", "tests-ranks.0"]
    assert sum(int(line.split(", ")[2].split()[0]) for line in counts) == len(kept)
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        assert {"logs/tests-gpu.0.xml", "logs/tests-gpu.1.log", "logs/tests-ranks.log"} <= set(logs.getnames())


def is_for_gpus(path: Path) -> bool:
    """Whether tests of a file outside the kernels' folder, which is a step of its own, are marked so."""
    marked = re.search(r"^(pytestmark = |@)pytest\.mark\.(multi_)?gpu$", path.read_text(), re.MULTILINE)
    return marked is not None and path.parent.name != "device"


@pytest.mark.slow
def test_a_step_whose_time_is_up_ends_nothing_else(tmp_path: Path) -> None:
    """Nor what was there before, also by a further call; and the files stay few."""
    for number in range(9):
        (tmp_path / f"gpu-{number}.json").write_text("{}")
    report = record(tmp_path, "decode-bf16", "tests-kernels", STEP_SECONDS="1")
    assert "== decode-bf16: exit code 124 after" in report
    assert "== tests-kernels: exit code" in report
    assert "left: decode-bf16" in report.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"json.tar.gz", "logs.tar.gz", "report.txt"}
    with tarfile.open(tmp_path / "json.tar.gz") as kept:
        assert len(kept.getnames()) == 9
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        assert {"logs/decode-bf16.log", "logs/tests-kernels.log"} <= set(logs.getnames())
    for number in range(9):
        (tmp_path / f"later-{number}.json").write_text("{}")
    record(tmp_path, "kernels")
    with tarfile.open(tmp_path / "json.tar.gz") as kept:
        assert len(kept.getnames()) == 18
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        assert {"logs/decode-bf16.log", "logs/kernels.log"} <= set(logs.getnames())
