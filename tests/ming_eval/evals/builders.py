"""Items, plans and runs with the values that a test is about; the rest is plain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ming_eval.accuracy_results import ItemResult, SuiteResult
from ming_eval.client import Client, Timeouts
from ming_eval.evals.answerer import ChatAnswerer
from ming_eval.evals.asking import Server
from ming_eval.evals.data import DataOptions
from ming_eval.evals.item import Item, Outcome
from ming_eval.evals.plan import AskOptions, Plan, Sample, make_plan
from ming_eval.evals.responses import Attempt, Response, ResponseLog
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import SuiteRun
from ming_eval.evals.scored import score_all
from ming_eval.evals.suite import Suite, read_suite
from ming_eval.evals.summarise import Conduct, item_results, summarise
from ming_eval.run_folder import Redactor
from ming_eval.targets import Target

CHOICES = ("Apples", "Pears", "Berries", "Nuts")
AT_ONCE = RetryPolicy(waits_s=(0.001, 0.001, 0.001, 0.001), longest_wait_s=0.01)

MCQ_SUITE = """
[suite]
name = "fruit"
version = 1
kind = "mcq"

[groups]
shelf = "shelf"

[sampling]
strata = "shelf"

[prompt]
default = "letter"

[prompt.letter]
text = "{question}\\n\\n{options}\\n\\nAnswer with just the letter ({letters}):"
max_tokens = 8

[prompt.cot]
text = "Think.\\n\\n{question}\\n\\n{options}"
max_tokens = 64
"""


def make_item(**values: Any) -> Item:
    """A question about fruit whose answer is C."""
    plain: dict[str, Any] = {"id": "q0", "question": "Which ones are red?", "choices": CHOICES, "answer": 2}
    return Item(**(plain | values))


def write_suite(folder: Path, text: str = MCQ_SUITE) -> Suite:
    """A suite file in `folder`, read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.toml").write_text(text)
    return read_suite(folder / "suite.toml")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mcq_rows(count: int, *, shelves: int = 1) -> list[dict[str, Any]]:
    """Questions `question 0` ... whose answer is A, B, C, D in turn."""
    return [
        {
            "id": f"q{i}",
            "question": f"question {i}",
            "choices": list(CHOICES),
            "answer": i % 4,
            "group": {"shelf": f"s{i % shelves}"},
        }
        for i in range(count)
    ]


def mcq_plan(folder: Path, count: int, *, shelves: int = 1, **options: Any) -> Plan:
    """A plan over `mcq_rows`."""
    suite = write_suite(folder / "suite")
    data = write_rows(folder / "data.jsonl", mcq_rows(count, shelves=shelves))
    return make_plan(suite, AskOptions(data=DataOptions(str(data)), **options))


class Tally:
    """Counts what a run reports while it goes on."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def reply_ended(self, _response: Response, outcome: Outcome, *, reused: bool) -> None:
        """Keep it."""
        self.outcomes.append(outcome)


async def run_plan(
    plan: Plan,
    url: str | Sequence[str],
    folder: Path,
    *,
    model: str = "m",
    concurrency: int = 4,
    timeout_s: float = 5.0,
    retries: RetryPolicy = AT_ONCE,
) -> SuiteRun:
    """Ask a whole plan of one server, or of several that share it."""
    urls = [url] if isinstance(url, str) else url
    names = "stuvw"
    targets = [Target.at(each, name=names[index], model=model) for index, each in enumerate(urls)]
    limits = Timeouts(first_s=timeout_s, idle_s=timeout_s, total_s=timeout_s)
    async with AsyncExitStack() as stack:
        log = stack.enter_context(ResponseLog(folder, Redactor()))
        answerers = []
        for target in targets:
            client = await stack.enter_async_context(Client(target, connections=concurrency, timeouts=limits))
            answerers.append(ChatAnswerer(client, Server(model, target.base_url)))
        run = SuiteRun(plan, answerers, log, Tally(), concurrency=concurrency, retries=retries)
        await run.run()
    return run


def result_of(plan: Plan, run: SuiteRun, *, max_error_rate: float = 0.05) -> SuiteResult:
    """The figures of a run."""
    conduct = Conduct("s", "m", run.wall_s, len(run.reused), max_error_rate)
    return summarise(plan, score_all(plan, run.responses), conduct)


TIMES = ("wall_s", "requests_per_s", "latency_ms", "requests", "reused", "retried")


def without_times(result: SuiteResult) -> dict[str, Any]:
    """A result as plain values, without what differs from run to run."""
    return {name: value for name, value in msgspec.to_builtins(result).items() if name not in TIMES}


# --- Scores set by hand ----------------------------------------------------------------------------------------------


def with_items(plan: Plan, items: Sequence[Item], suite: Suite | None = None, **sizes: int) -> Plan:
    """A plan that asks these items instead."""
    samples = tuple(Sample(item, 0, 0, tuple(range(len(item.choices)))) for item in items)
    return replace(plan, samples=samples, suite=suite or plan.suite, stratum_sizes=sizes or plan.stratum_sizes)


def answered(plan: Plan, texts: Sequence[str | None]) -> dict[tuple[str, int, int], Response]:
    """Replies in the order of the plan; None for one that was not sent."""
    return {
        sample.key: Response(
            key=sample.item.id,
            suite=plan.name,
            backend="s",
            id=sample.item.id,
            repeat=sample.repeat,
            rotation=sample.rotation,
            text=text,
            finish_reason="stop",
            attempts=(Attempt(0.5),),
        )
        for sample, text in zip(plan.samples, texts, strict=True)
        if text is not None
    }


def result(plan: Plan, texts: Sequence[str | None], *, backend: str = "s", **conduct: Any) -> SuiteResult:
    """The figures of replies."""
    plain = {"model": "m", "wall_s": 2.0, "reused": 0, "max_error_rate": 0.05}
    scored = score_all(plan, answered(plan, texts))
    return summarise(plan, scored, Conduct(backend=backend, **(plain | conduct)))


def lines(plan: Plan, texts: Sequence[str | None], backend: str = "s") -> list[ItemResult]:
    """The item lines of replies."""
    return item_results(plan, score_all(plan, answered(plan, texts)), backend)
