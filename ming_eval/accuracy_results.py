"""What an accuracy run leaves behind: the suites in its `summary.json` and the lines of `items.jsonl`.

Shares and rates are between 0 and 1. A value that does not exist is None, never 0. Fields: `results/README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ming_eval.metrics.intervals import Estimate
from ming_eval.results import Distribution, RunSummary, decode_versioned


@dataclass(frozen=True, slots=True)
class DataOrigin:
    """What was loaded: `kind` is sample, file or hub. `digest` is of ids, questions, choices and answers.

    `full_rows` is the size of the whole set where the suite file says so. `available` counts the items whose media are
    there, of all, by stratum; None where all are.
    """

    kind: str
    name: str
    revision: str | None
    rows: int
    full_rows: int | None
    digest: str
    available: Mapping[str, tuple[int, int]] | None = None

    @property
    def is_sample(self) -> bool:
        """True for the bundled set, which is not the benchmark."""
        return self.kind == "sample"


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One value of a reporting dimension: the suite's metric over its items, with an interval.

    `correct` is None where the metric is no share of right answers. Fewer than 30 items are too few to rank.
    """

    name: str
    correct: float | None
    total: int
    value: float
    low: float
    high: float
    too_small: bool


@dataclass(frozen=True, slots=True)
class Comparable:
    """A figure that somebody else published, and how it was found differently."""

    model: str
    metric: str
    value: float
    source: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """One suite at one backend.

    `planned` counts replies: items times repeats or rotations. It is the sum of the five outcomes; `accuracy` is
    correct / planned. `value` is the suite's own `metric` with its interval, equal to `accuracy` where that is the
    metric, and None where no reply came at all. `possible_low` and `possible_high` are the accuracy with all errors and
    skips wrong or right. Latencies and `requests_per_s` are of first attempts. `answered_by` counts replies by server,
    where several share the suite. `protocol_settings` are what the protocol sets beside prompt, length and temperature.
    """

    suite: str
    version: int
    title: str
    kind: str
    backend: str
    model: str | None
    protocol: str
    protocol_hash: str
    method: str
    prompt: str
    max_tokens: int
    temperature: float
    option_order: str
    data: DataOrigin
    items: int
    repeats: int
    planned: int
    correct: int
    wrong: int
    unparsed: int
    error: int
    skipped: int
    complete: bool
    accuracy: float
    ci_low: float
    ci_high: float
    interval: str
    accuracy_answered: float | None
    possible_low: float
    possible_high: float
    parse_rate: float | None
    accuracy_expected: float | None
    metric: str
    value: float | None
    value_low: float | None
    value_high: float | None
    value_interval: str | None
    lower_is_better: bool
    value_per_item: float | None
    other_metrics: Mapping[str, float]
    strata: str | None
    macro: Estimate | None
    weighted: Estimate | None
    clusters: int | None
    repeat_sd: float | None
    agreement: float | None
    detectable_difference: float | None
    rules: Mapping[str, int]
    unparsed_reasons: Mapping[str, int]
    failures: Mapping[str, int]
    finish_reasons: Mapping[str, int]
    predicted: Mapping[str, int]
    gold: Mapping[str, int]
    majority_accuracy: float | None
    groups: Mapping[str, tuple[GroupRow, ...]]
    published: tuple[Comparable, ...]
    wall_s: float | None
    requests: int
    reused: int
    retried: int
    requests_per_s: float | None
    latency_ms: Distribution
    prompt_tokens: int | None
    completion_tokens: int | None
    caveats: tuple[str, ...]
    answered_by: Mapping[str, int] = field(default_factory=dict)
    protocol_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_unheard(self) -> bool:
        """Whether no reply came at all: 0 or 100 % would say something of a model that was never heard."""
        return self.error + self.skipped == self.planned


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySummary(RunSummary):
    """`summary.json` of an accuracy run; `requests` counts planned replies, `failed` those that ended as errors."""

    suites: tuple[SuiteResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One line of `items.jsonl`: how one planned reply ended. Letters are as displayed; `order` maps them back.

    `response` is the key of the reply's line in `responses.jsonl`. `tallies` are what the reply adds to sums that a
    metric divides: word errors of words.
    """

    suite: str
    backend: str
    id: str
    repeat: int
    rotation: int
    outcome: str
    reason: str | None
    rule: str | None
    extracted: str | None
    gold: Any
    value: float
    latency_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    attempts: int
    group: Mapping[str, str]
    cluster: str | None
    response: str | None = None
    order: tuple[int, ...] | None = None
    tallies: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What identifies the reply among those of one backend."""
        return self.suite, self.id, self.repeat, self.rotation


def read_accuracy(path: Path) -> AccuracySummary:
    """The summary of an accuracy run, from its folder or from a file written by `--json`.

    Raises:
        DataError: there is none that this version reads.
    """
    return decode_versioned(path / "summary.json" if path.is_dir() else path, AccuracySummary)
