"""A pytest plugin for runs that may be stopped: `-p tests.benchmarks.kept --kept FILE [--part NAME] [--share I/N]`.

Each test's result is appended to FILE when the test ends: outcome, seconds (fixtures that it was the first to need
included), NAME, id, and of a failure what was said. Several processes may append to one file. `--share` leaves those
tests that are this process's of N.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

WIDTH = 200  # characters of a failure's reason
# What compiles many kernels, or computes on the CPU, beside a test that compiles one or two: roughly.
HEAVY = {"test_every_variant": 40, "test_a_thousand": 6, "test_captured_logits": 3, "test_released_outputs": 3}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kept", type=Path, help="append each test's result to this file")
    parser.addoption("--part", default="tests", help="what this process is called there")
    parser.addoption("--share", help="I/N: run the I-th (from 0) of N parts of the tests")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--kept") is not None:
        config.pluginmanager.register(Kept(config.getoption("--kept"), config.getoption("--part")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if share := config.getoption("--share"):
        index, parts = map(int, share.split("/"))
        mine = share_of([item.nodeid for item in items], index, parts)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in mine])
        items[:] = [item for item in items if item.nodeid in mine]


def share_of(ids: list[str], index: int, parts: int) -> set[str]:
    """Parameters of a function stay together, up to a fair share, since they share kernels; the heaviest go first to
    who has least."""
    fair = sum(map(_weight, ids)) / parts
    bundles: list[list[str]] = []
    for test in ids:
        last = bundles[-1] if bundles else []
        if last and _function(last[0]) == _function(test) and sum(map(_weight, [*last, test])) <= fair:
            last.append(test)
        else:
            bundles.append([test])
    shares: list[list[str]] = [[] for _ in range(parts)]
    for bundle in sorted(bundles, key=lambda tests: sum(map(_weight, tests)), reverse=True):
        min(shares, key=lambda tests: sum(map(_weight, tests))).extend(bundle)
    return set(shares[index])


def _function(test: str) -> str:
    return test.partition("[")[0]


def _weight(test: str) -> int:
    return next((weight for name, weight in HEAVY.items() if name in test), 1)


class Kept:
    """Appends a line for each test."""

    def __init__(self, path: Path, part: str) -> None:
        self._path, self._part = path, part
        self._seconds: dict[str, float] = defaultdict(float)
        self._said: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self._seconds[test] += report.duration
        if not report.passed:
            self._said.setdefault(test, (report.outcome.upper(), _reason(report)))
        if report.when == "teardown":
            outcome, reason = self._said.get(test, ("PASSED", ""))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{outcome} {self._seconds[test]:6.1f} s {self._part} {test}{reason}\n")


def _reason(report: pytest.TestReport) -> str:
    """What was said, on one line."""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        said = report.longrepr[2]
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        said = report.longreprtext if crash is None else crash.message
    return ": " + " ".join(said.split())[:WIDTH]
