"""Stored accuracy runs -> the comparisons between them: each backend of each run against the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ming_eval.accuracy_results import AccuracySummary, ItemResult, SuiteResult
from ming_eval.compare.accuracy import AccuracyComparison, compare_suites, with_verdicts
from ming_eval.errors import DataError, UsageError
from ming_eval.evals.item_lines import read_items
from ming_eval.report.overlay import unique_labels


@dataclass(frozen=True, slots=True)
class AnsweredRun:
    """A run as it was stored: its summary and its item lines."""

    summary: AccuracySummary
    items: Sequence[ItemResult]


@dataclass(frozen=True, slots=True)
class _System:
    """One backend of one run, or several that shared its suites."""

    label: str
    suites: Mapping[str, SuiteResult]
    items: Sequence[ItemResult]


def compare_runs(runs: Sequence[AnsweredRun], *, force: bool = False) -> list[AccuracyComparison]:
    """Every further system against the first one, suite by suite, under one correction for all of them.

    Raises:
        UsageError: there are fewer than two systems.
        DataError: two of them share no suite or item, or were not asked alike and `force` is not set.
    """
    systems = _systems(runs)
    if len(systems) < 2:
        raise UsageError("a comparison needs two systems: name two runs, or one that asked two backends")
    first, *others = systems
    return with_verdicts([each for other in others for each in _compare(first, other, force=force)])


def read_runs(folders: Sequence[Path], summaries: Sequence[AccuracySummary]) -> list[AnsweredRun]:
    """Runs with the item lines of their folders.

    Raises:
        DataError: a run has none that can be read.
    """
    return [AnsweredRun(summary, read_items(folder)) for folder, summary in zip(folders, summaries, strict=True)]


def _systems(runs: Sequence[AnsweredRun]) -> list[_System]:
    found = [
        (
            name,
            run.summary.run,
            {suite.suite: suite for suite in run.summary.suites if suite.backend == name},
            run.items,
        )
        for run in runs
        for name in dict.fromkeys(suite.backend for suite in run.summary.suites)
    ]
    labels = unique_labels([(name, run) for name, run, _, _ in found])
    return [_System(label, suites, items) for label, (_, _, suites, items) in zip(labels, found, strict=True)]


def _compare(first: _System, second: _System, *, force: bool) -> list[AccuracyComparison]:
    shared = [name for name in first.suites if name in second.suites]
    if not shared:
        raise DataError(
            f"{first.label} was asked {', '.join(first.suites)} and {second.label} {', '.join(second.suites)}: "
            "they share no suite"
        )
    labels = (first.label, second.label)
    return [
        compare_suites(first.suites[name], first.items, second.suites[name], second.items, labels=labels, force=force)
        for name in shared
    ]
