"""`ming-eval coverage` with the bundled engine and its embedded model: every modality, from drawing to report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_embedded_model_serves_every_modality(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "coverage", "--max-tokens", "8"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(tmp_path)], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    rows = [(row["modality"], row["status"], row["passed"]) for row in summary["modalities"]]
    assert rows == [
        *(("T2T", "pass", 3), ("I2T", "pass", 4), ("A2T", "pass", 3), ("V2T", "pass", 2)),
        *((f"{source}2S", "pass", 2) for source in "TIAV"),
    ]
    spoken = [case for case in summary["cases"] if case["id"].partition("-")[0].endswith("2s")]
    assert [case["sample_rate_hz"] for case in spoken] == [44100] * 8
    assert all(case["audio_s"] > 2 and case["ttfa_ms"] < case["e2e_ms"] for case in spoken)
    assert len(list(folder.glob("outputs/*.wav"))) == 8
    added = {case["id"]: case["media_tokens"] for case in summary["cases"]}
    # 320x240 is 10 x 8 merged patches, 320x160 10 x 5; start tag, end tag and newline each.
    assert (added["i2t-shapes"], added["i2t-word"]) == (80 + 3, 50 + 3)
    # One frame each 40 ms after the projector: 2 s give 50, 2.4 s 60; start tag and end tag.
    assert (added["a2t-beeps"], added["a2t-pitch"], added["a2t-scale"]) == (50 + 2, 50 + 2, 60 + 2)
    assert all(case["output"] and case["cached_tokens"] is not None for case in summary["cases"])
    assert "Cases" in (folder / "summary.md").read_text()
