"""guidellm as a load generator: synthetic prompts, several streams at a time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

NUM_REQUESTS = 24
OUTPUT_TOKENS = 16


def load(command: Path, url: str, tokenizer: Path, folder: Path) -> str:
    """Run it and read its report: every request must have succeeded, with the tokens that were asked for."""
    output = folder / "guidellm.json"
    arguments = [str(command), "run", "--disable-console", "--backend", f"kind=openai_http,target={url}"]
    arguments += ["--profile", "kind=concurrent,streams=4", "--constraint", f"kind=max_requests,count={NUM_REQUESTS}"]
    arguments += ["--data", f"kind=synthetic_text,prompt_tokens=48,output_tokens={OUTPUT_TOKENS}"]
    arguments += ["--tokenizer", f"kind=hf_auto,model={tokenizer}", "--output", f"kind=json,path={output}"]
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
    counts = {request["output_tokens"] for request in successful}
    assert counts == {OUTPUT_TOKENS}, f"tokens of an answer: {sorted(counts)}, not {OUTPUT_TOKENS}"
    return f"{len(successful)} requests, 0 failed, {OUTPUT_TOKENS} tokens each"
