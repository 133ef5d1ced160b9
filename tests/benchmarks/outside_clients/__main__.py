"""Run the clients, one after the other, against `ming-eval serve` with the embedded model, or against a URL.

The OpenAI SDK is the one of this environment; the others live in environments of their own, since they bring a
hundred packages each, and are left out where they are not given:

    python -m tests.benchmarks.outside_clients --lm-eval VENV/bin/lm_eval --guidellm OTHER_VENV/bin/guidellm

Exit code 1 when a client failed. `docs/clients.md` says what each needs and what was seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.tiny import ensure_snapshot
from tests.benchmarks.outside_clients import guidellm, lm_eval, sdk
from tests.end_to_end.server import running_server


@dataclass(frozen=True)
class Check:
    """One client doing one thing; `run` returns what it saw, and raises or returns where it was wrong."""

    client: str
    what: str
    run: Callable[[], str]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outside_clients", description=__doc__)
    parser.add_argument("--url", help="a server that runs already (default: start one with the embedded model)")
    parser.add_argument("--tokenizer", type=Path, help="directory with the served model's tokenizer")
    parser.add_argument("--lm-eval", type=Path, metavar="PATH", help="the lm_eval command of its environment")
    parser.add_argument("--guidellm", type=Path, metavar="PATH", help="the guidellm command of its environment")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, server(options.url, Path(folder)) as url:
        tokenizer = options.tokenizer or ensure_snapshot(None)
        failures = [check for check in checks(url, options, tokenizer, Path(folder)) if not succeeds(check)]
    return 1 if failures else 0


def checks(url: str, options: argparse.Namespace, tokenizer: Path, folder: Path) -> Iterator[Check]:
    yield Check("openai", "sync: chat, stream, schema, scores", lambda: sdk.sync_client(url))
    yield Check("openai", "async: 32 streams at once", lambda: sdk.async_client(url))
    if options.lm_eval is not None:
        harness = lm_eval.Harness(options.lm_eval, url, folder)
        yield Check("lm-eval", "local-completions: log-likelihood and generation", harness.completions)
        yield Check("lm-eval", "local-chat-completions: generation", harness.chat)
    if options.guidellm is not None:
        yield Check("guidellm", "concurrent load", lambda: guidellm.load(options.guidellm, url, tokenizer, folder))


def succeeds(check: Check) -> bool:
    print(f"{check.client:10} {check.what:52} ", end="", flush=True)
    try:
        print("ok    ", check.run(), flush=True)
    except (AssertionError, OSError, RuntimeError) as error:
        print("FAILED", error, flush=True)
        return False
    return True


@contextmanager
def server(url: str | None, folder: Path) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with running_server(folder, "--speech", "off", "--max-model-len", "2048", "--kv-tokens", "16384") as started:
        yield started.url


if __name__ == "__main__":
    sys.exit(main())
