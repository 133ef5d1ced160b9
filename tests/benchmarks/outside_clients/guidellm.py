"""guidellm as a load generator: synthetic prompts, several streams at a time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

NUM_REQUESTS = 24


def load(command: Path, url: str, tokenizer: Path, folder: Path) -> str:
    """Run it and read its report: every request must have succeeded, with the tokens that were asked for."""
    output = folder / "guidellm.json"
    arguments = [str(command), "benchmark", "run", "--target", url, "--profile", "concurrent", "--rate", "4"]
    arguments += ["--max-requests", str(NUM_REQUESTS), "--data", "prompt_tokens=48,output_tokens=16"]
    arguments += ["--processor", str(tokenizer), "--output-path", str(output), "--disable-console"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode != 0 or not output.exists():
        raise RuntimeError(f"guidellm ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    (benchmark,) = json.loads(output.read_text(encoding="utf-8"))["benchmarks"]
    return _summary(benchmark)


def _summary(benchmark: dict[str, Any]) -> str:
    requests = benchmark["requests"]
    successful, errored = requests["successful"], requests["errored"]
    assert not errored, f"{len(errored)} requests failed: {str(errored[0])[:500]}"
    assert len(successful) == NUM_REQUESTS, f"{len(successful)} of {NUM_REQUESTS} requests ended"
    return f"{len(successful)} requests, 0 failed"
