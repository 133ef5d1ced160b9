"""The real server over the real model, as an operator starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Against hanging, not for speed: a machine that is slow or does other things, too, must not fail a test.
START_LIMIT_S = 300.0
ANSWER_LIMIT_S = 240.0


@dataclass(frozen=True)
class RunningServer:
    """A started server; `process` is its HTTP process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and decoded answer."""
        data = json.dumps(body).encode()
        status, text = fetch(urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}))
        return status, json.loads(text)

    def chat(self, content: list[dict[str, Any]] | str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """One greedy user turn of eight tokens."""
        message = {"role": "user", "content": content}
        return self.post("/v1/chat/completions", {"messages": [message], "max_tokens": 8, "temperature": 0} | fields)

    def metric(self, name: str) -> float:
        """A gauge or counter without labels beside the model's name."""
        _, text = fetch(urllib.request.Request(self.url + "/metrics"))
        return float(next(line for line in text.splitlines() if line.startswith(f"ming:{name}{{")).split()[-1])


def fetch(request: urllib.request.Request) -> tuple[int, str]:
    """Status and text, whatever the status."""
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[RunningServer]:
    """`python -m engine` on a free port, ready for requests; ended at the end whatever happens."""
    port_file, log = folder / "port", folder / "log"
    command = (
        sys.executable,
        "-m",
        "engine",
        "--port",
        "0",
        "--port-file",
        str(port_file),
        "--device",
        "cpu",
        *options,
    )
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment())
    try:
        yield RunningServer(url_when_ready(process, port_file, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """This process's, without a key of the user's."""
    return {name: value for name, value in os.environ.items() if name != "MING_API_KEY"}


def url_when_ready(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> str:
    """Where a server answers that was just started."""
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        if port_file.exists():
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            if fetch(urllib.request.Request(url + "/health"))[0] == 200:
                return url
        time.sleep(0.1)
    raise AssertionError(f"not ready within {START_LIMIT_S} s: {log.read_text()[-2000:]}")


def command_line(*words: str) -> Sequence[str]:
    """`ming-eval` of this environment."""
    return (str(Path(sys.executable).parent / "ming-eval"), *words)
