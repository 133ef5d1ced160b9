"""Rules that end a point."""

from __future__ import annotations

import time

import pytest

from ming_eval.load.stopping import Stopper, StopRules
from ming_eval.types import Failure, RequestRecord
from tests.ming_eval.factories import make_record


def taking(e2e_s: float) -> RequestRecord:
    return make_record(last_output_s=e2e_s)


def stops_after(rules: StopRules, records: list[RequestRecord]) -> int | None:
    stopper = Stopper(rules)
    for count, record in enumerate(records, start=1):
        stopper.see(record)
        if stopper.should_stop():
            return count
    return None


def test_no_rule_never_stops() -> None:
    assert stops_after(StopRules(), [make_record(failure=Failure.RESET)] * 100) is None


def test_time_runs_from_the_first_question() -> None:
    stopper = Stopper(StopRules(duration_s=0.1))
    time.sleep(0.12)
    assert not stopper.should_stop()
    time.sleep(0.12)
    assert stopper.should_stop()
    assert stopper.reason == "after 0.1 s"


def test_a_request_that_is_due_after_the_end_is_not_waited_for() -> None:
    stopper = Stopper(StopRules(duration_s=60.0))
    assert not stopper.should_stop(time.perf_counter() + 59.0)
    assert stopper.should_stop(time.perf_counter() + 61.0)
    assert not stopper.should_stop(time.perf_counter() + 30.0)  # it waits in another slot, and is due in time
    assert stopper.reason == "after 60 s"


def test_error_rate_needs_twenty_requests() -> None:
    failed, good = make_record(failure=Failure.RESET), make_record()
    assert stops_after(StopRules(error_rate=0.1), [failed] * 50) == 20
    assert stops_after(StopRules(error_rate=0.5), [good, failed] * 50) is None
    assert stops_after(StopRules(error_rate=0.4), [failed, good] * 50) == 20


def test_interval_by_hand() -> None:
    """E2E of 0.9 and 1.1 in turn: half the width is 1.96 x 0.1 / sqrt(n) (nearly), so 5 % takes 16, 2 % takes 97."""
    records = [taking(0.9), taking(1.1)] * 200
    assert stops_after(StopRules(until_ci=0.05), records) == 32  # never before 32
    assert stops_after(StopRules(until_ci=0.02), records) == pytest.approx(97, abs=2)


def test_failed_requests_have_no_e2e() -> None:
    assert stops_after(StopRules(until_ci=0.5), [make_record(failure=Failure.RESET)] * 100) is None
