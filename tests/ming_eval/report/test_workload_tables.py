"""What the server and the GPUs said, in the table beside the client: only what enough looks stand behind."""

from __future__ import annotations

from ming_eval.metrics.prometheus import Energy, ServerView
from ming_eval.report.workload_tables import both_sides_grid
from tests.ming_eval.factories import make_point, make_summary


def row(num_looks: int, *, joules: float | None, num_steps: float | None) -> dict[str, str]:
    """By title, of a point with so many looks at the server and the GPUs and so many at the experts of a step."""
    server = ServerView(
        num_samples=num_looks,
        running_mean=3.0,
        running_max=4.0,
        waiting_mean=1.0,
        waiting_max=2.0,
        kv_used_max=0.5,
        prefix_hit_share=0.25,
        preemptions=7.0,
        distinct_experts=62.0,
        expert_share=0.775,
        num_expert_looks=num_steps,
    )
    energy = Energy(560.0, 0.8, 0.9, joules, num_looks)
    grid = both_sides_grid(make_summary(make_point(1, server=server, energy=energy)))
    return dict(zip(grid.header, grid.rows[0], strict=True))


GAUGES = ("running mean / max", "waiting mean / max", "KV used", "GPU W", "GPU busy", "J / token")


def test_gauges_of_a_look_or_two_are_left_out_and_counters_are_not() -> None:
    few, enough = row(2, joules=None, num_steps=2.0), row(3, joules=None, num_steps=3.0)
    assert [few["looks"], *(few[title] for title in GAUGES)] == ["2", *["-"] * 6]
    assert [enough["looks"], *(enough[title] for title in GAUGES)] == [
        "3",
        "3.00 / 4.00",
        "1.00 / 2.00",
        "50 %",
        "560",
        "80 %",
        "0.900",
    ]
    assert (few["experts of uniform"], enough["experts of uniform"]) == ("- (2 steps)", "62.0, 77.5 % (3 steps)")
    assert few["prefix hits"] == enough["prefix hits"] == "25 %"
    assert few["preemptions"] == enough["preemptions"] == "7"


def test_what_gpus_count_themselves_needs_no_looks_and_older_results_have_no_count_of_steps() -> None:
    metered = row(1, joules=500.0, num_steps=None)
    assert (metered["GPU W"], metered["GPU busy"], metered["J / token"]) == ("560", "-", "0.900")
    assert metered["experts of uniform"] == "62.0, 77.5 %"
