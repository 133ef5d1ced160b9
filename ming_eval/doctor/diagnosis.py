"""What was found out about a server; plain values, written as JSON by `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """`odd`: it works, and not as the API says. `unseen`: there was no time left to look."""

    OK = "ok"
    ODD = "odd"
    MISSING = "missing"
    FAILED = "failed"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `costs` is what cannot be measured because of it."""

    name: str
    status: Status
    detail: str
    costs: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything about one server. `can_be_measured`: a sweep will not fail at every request."""

    url: str
    dialect: str
    dialect_reason: str
    model: str | None
    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    can_be_measured: bool

    @property
    def not_measurable(self) -> tuple[str, ...]:
        """What a run against this server will not say, in the order of the findings."""
        return tuple(finding.costs for finding in self.findings if finding.costs is not None)

    @property
    def exit_code(self) -> int:
        """1 when every request of a sweep would fail."""
        return 0 if self.can_be_measured else 1
