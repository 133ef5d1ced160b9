"""What `ming-eval sweep` adds when it searches for a capacity, and when it knows what the server costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.errors import UsageError
from ming_eval.load.kept import Kept
from ming_eval.load.plan import LoadPlan, Shape
from ming_eval.load.search import Capacity, Search, capacity, parse_search, run_search
from ming_eval.report.cost import Cost, cost_grid, cost_rows
from ming_eval.results import Summary

CAPACITY_FILE, COST_FILE = "capacity.json", "cost.json"


@dataclass(frozen=True, slots=True)
class Extras:
    """What to find out besides the points."""

    search: Search | None = None
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out, for the terminal and for `summary.md`."""

    text: str = ""
    markdown: str | None = None


def choose_extras(
    plan: LoadPlan, num_targets: int, search: str | None, gpus: int | None, price_per_hour: float | None
) -> Extras:
    """The extras that the options ask for.

    Raises:
        UsageError: the limits cannot be read, or there is no single closed loop to search along.
    """
    cost = Cost(gpus, price_per_hour)
    if search is None:
        return Extras(cost=cost)
    if num_targets > 1:
        raise UsageError("--search finds the capacity of one server: name one --backend")
    if plan.shape not in (Shape.CLOSED, Shape.WAVES):
        raise UsageError("--search goes along requests in flight: leave out --rate, --trace and --arrivals")
    if len(plan.tasks) > 1:
        raise UsageError("--search finds the capacity for one task: name one with --task")
    wanted = parse_search(search, plan.concurrencies, plan.max_error_rate)
    if not plan.slos and any(limit.figure == "goodput" for limit in wanted.limits):
        raise UsageError("--search 'goodput>...' needs limits for single requests: give --slo")
    return Extras(wanted, cost)


async def measure_search(
    search: Search,
    plan: LoadPlan,
    backend: str,
    kept: Kept,
    folder: Path,
    measure: Callable[[LoadPlan], Awaitable[None]],
) -> None:
    """Measure load after load; the manifest names those that have been begun, so that a killed run can be summed up."""

    async def step(next_plan: LoadPlan) -> None:
        manifests.write(replace(manifests.read(folder), settings=asdict(next_plan)), folder)
        await measure(next_plan)

    await run_search(search, plan, backend, kept, step)


def find_out(extras: Extras, summary: Summary, folder: Path) -> Findings:
    """Write `capacity.json` and `cost.json` where they were asked for.

    Raises:
        DataError: they cannot be written.
    """
    texts, sections = [], []
    if extras.search is not None and summary.points:
        found: Capacity = capacity(extras.search, summary.points)
        results.write_whole(folder / CAPACITY_FILE, results.encode(found))
        texts.append(f"{found}\n")
        sections.append(f"## Capacity\n\n{found}")
    if extras.cost:
        rows = cost_rows(summary, extras.cost)
        results.write_whole(folder / COST_FILE, results.encode(rows))
        texts.append(cost_grid(rows).text())
        sections.append(f"## Per GPU and per price\n\n{cost_grid(rows).markdown().rstrip()}")
    return Findings("\n".join(texts), "\n\n".join(sections) or None)
