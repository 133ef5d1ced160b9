"""lm-evaluation-harness on the two tasks of `tasks/`, without its own tokenizer: it asks the server for one."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Harness:
    """`command` is `lm_eval` of an environment that has the package with its `api` extra."""

    command: Path
    url: str
    folder: Path

    def completions(self) -> str:
        """Log-likelihoods by scoring (`max_tokens` 1 with echo), and generation from raw prompts."""
        results = self._run("local-completions", "/v1/completions", "ming_choice,ming_generate")
        accuracy = results["ming_choice"]["acc,none"]
        expected = self._score_directly()
        assert accuracy == expected, f"accuracy {accuracy}, but {expected} by scores asked for without the harness"
        assert results["ming_generate"]["exact_match,none"] >= 0
        return f"acc {accuracy:.3f} on 8 questions, as by direct scoring"

    def chat(self) -> str:
        """Generation from conversations."""
        results = self._run("local-chat-completions", "/v1/chat/completions", "ming_generate", "--apply_chat_template")
        return f"exact match {results['ming_generate']['exact_match,none']:.3f} on 8 questions"

    def _score_directly(self) -> float:
        """The share of questions whose right answer has the largest summed log-probability."""
        lines = (TASKS / "choice.jsonl").read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line) for line in lines]
        return sum(self._is_right(question) for question in questions) / len(questions)

    def _is_right(self, question: dict[str, Any]) -> bool:
        context = f"Question: {question['question']}\nAnswer:"
        start = self._post("/tokenize", {"prompt": context})["count"]
        prompts = [f"{context} {choice}" for choice in question["choices"]]
        body = {"prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 0}
        scores = [
            sum(choice["logprobs"]["token_logprobs"][start:])
            for choice in self._post("/v1/completions", body)["choices"]
        ]
        return scores.index(max(scores)) == question["answer"]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def _run(self, kind: str, path: str, tasks: str, *more: str) -> dict[str, Any]:
        arguments = f"model=ming-flash-omni-2.0-tiny,base_url={self.url}{path},num_concurrent=4,max_retries=1"
        if kind == "local-completions":
            arguments += ",tokenizer_backend=remote"
        output = self.folder / f"{kind}.json"
        command = [str(self.command), "--model", kind, "--model_args", arguments, "--tasks", tasks]
        command += ["--batch_size", "4" if kind == "local-completions" else "1"]
        command += ["--include_path", str(TASKS), "--output_path", str(output), *more]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
        environment = {**os.environ, **offline, "HF_HOME": str(self.folder / "hf")}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(command, cwd=TASKS, env=environment, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise RuntimeError(f"lm_eval ended with {done.returncode}: {done.stderr[-1500:]}")
        (file,) = self.folder.glob(f"**/{kind}*.json")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["results"]
        return found
