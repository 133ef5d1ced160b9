"""Which loads a search tries, and what it concludes; the server is a rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ming_eval.errors import UsageError
from ming_eval.load.search import Search, capacity, parse_search
from ming_eval.metrics.stats import Interval
from ming_eval.results import Distribution, Goodput, Point, Speech
from tests.ming_eval.factories import make_point


def search(text: str = "ttft_ms.p99<500", lowest: int = 1, highest: int = 256) -> Search:
    return parse_search(text, [lowest, highest], max_error_rate=0.05)


def tried(wanted: Search, is_met: Callable[[int], bool]) -> list[int]:
    outcomes: dict[int, bool] = {}
    while (load := wanted.next_load(outcomes)) is not None:
        assert load not in outcomes
        outcomes[load] = is_met(load)
    return list(outcomes)


def point(load: int, ttft_ms: float, spread_ms: float | None = None, **values: object) -> Point:
    intervals = {} if spread_ms is None else {"ttft_ms.p99": Interval(ttft_ms - spread_ms, ttft_ms + spread_ms)}
    return make_point(load, 10.0 * load, ttft_ms=Distribution(count=100, p99=ttft_ms), intervals=intervals, **values)


@pytest.mark.parametrize(
    ("limit", "loads"),
    [
        (37, [1, 2, 4, 8, 16, 32, 64, 48, 40, 36, 38, 37]),
        (1, [1, 2]),
        (0, [1]),
        (1000, [1, 2, 4, 8, 16, 32, 64, 128, 256]),
    ],
)
def test_loads_double_until_a_limit_breaks_and_close_in_on_it(limit: int, loads: list[int]) -> None:
    assert tried(search(), lambda load: load <= limit) == loads


def test_a_large_capacity_is_found_to_five_percent() -> None:
    loads = tried(search(highest=4096), lambda load: load <= 1500)
    met = max(load for load in loads if load <= 1500)
    assert 1500 - met <= 0.05 * 1500
    assert len(loads) <= 18


def test_the_end_of_the_range_is_tried_when_doubling_would_pass_it() -> None:
    assert tried(search(highest=20), lambda load: True) == [1, 2, 4, 8, 16, 20]


def test_capacity_and_its_interval() -> None:
    """The limit lies in the intervals of c=4 and c=5: sure are only c=2 and c=8."""
    points = [point(2, 300, 50), point(4, 480, 50), point(5, 520, 50), point(8, 700, 50)]
    found = capacity(search(), points)
    assert (found.load, found.first_broken, found.surely, found.surely_not) == (4, 5, 2, 8)
    assert (found.output_tokens_per_s, found.tried) == (40.0, (2, 4, 5, 8))
    assert str(found) == (
        "Highest load with ttft_ms.p99<500: c=4 (c=5 does not). By the 95 % intervals between c=2 and c=8."
    )


def test_nothing_meets_an_impossible_limit() -> None:
    found = capacity(search("ttft_ms.p99<1"), [point(1, 300, 50)])
    assert (found.load, found.first_broken, found.surely, found.surely_not) == (None, 1, None, 1)
    assert str(found) == "No load that was tried meets ttft_ms.p99<1: already c=1 does not."


def test_every_limit_counts_and_so_do_failures_and_missing_values() -> None:
    both = search("ttft_ms.p99<500 and output_tokens_per_s>15")
    assert not both.is_met(point(1, 300))
    assert both.is_met(point(2, 300))
    assert not both.is_met(point(2, 300, error_rate=0.06))
    assert both.is_sure(point(2, 300, error_rate=0.06)) is False
    assert not both.is_met(make_point(2, 20.0, ttft_ms=Distribution()))


@pytest.mark.parametrize(
    "text", ["", "ttft_ms.p99", "ttft_ms<5", "ttft_ms.p98<5", "speed<5", "backend.p50<5", "failed<3"]
)
def test_limits_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        search(text)


def test_speech_and_goodput_can_be_limits_too() -> None:
    """RTF of at most 0.9, 95 of 100 within the SLOs; a point without speech or SLOs meets neither."""
    rtf, none = Distribution(4, 0.7, 0.7, 0.9, 0.9, 0.5, 0.9), Distribution()
    speech = Speech(
        requests=4, audio_s=8.0, ttfa_ms=none, rtf=rtf, rtf_gen=none, prebuffer_ms=none, stalls=0, stalled_s=0.0
    )
    spoken = point(2, 100.0, speech=speech, goodput=Goodput({"rtf": 1.0}, 95, 100, 0.95, Interval(0.89, 0.98), 2.0))
    assert search("rtf.p95<1").is_met(spoken)
    assert not search("rtf.p95<0.8").is_met(spoken)
    assert not search("rtf.p95<1").is_met(point(2, 100.0))
    assert search("goodput>0.9").is_met(spoken)
    assert not search("goodput>0.9").is_met(point(2, 100.0))
    assert [search(f"goodput>{share}").is_sure(spoken) for share in (0.8, 0.9, 0.99)] == [True, None, False]
