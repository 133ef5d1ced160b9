"""What one coverage run will do; stored in the manifest."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ming_eval.errors import DataError
from ming_eval.manifest import Manifest
from ming_eval.types import Task


@dataclass(frozen=True, slots=True)
class CoveragePlan:
    """A run, independent of the servers that it runs against.

    `cases_version` is that of the bundled cases. `max_tokens` replaces the length that each case has, `timeout_s` the
    client's own limits for a request without output; None leaves them. `max_error_rate` is a share, 0 to 1.
    """

    modalities: tuple[Task, ...]
    cases_version: int
    max_tokens: int | None
    max_error_rate: float
    timeout_s: float | None = None


def read_plan(manifest: Manifest) -> CoveragePlan:
    """The plan that a manifest holds.

    Raises:
        DataError: it holds none.
    """
    try:
        return msgspec.convert(manifest.settings, CoveragePlan)
    except msgspec.ValidationError as exc:
        raise DataError(f"run {manifest.run} holds no coverage: {exc}") from exc
