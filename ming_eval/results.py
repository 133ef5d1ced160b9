"""What a run leaves behind: `summary.json` as typed values, written and read. Fields: `results/README.md`.

Times are milliseconds in `*_ms` fields and seconds in `*_s` fields. A value that does not exist is None, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ming_eval.errors import DataError
from ming_eval.types import TokenSource

T = TypeVar("T")

FORMAT = 1  # raised when a field changes its meaning or goes away; a new field does not raise it


@dataclass(frozen=True, slots=True)
class Distribution:
    """A latency over the good requests of a point; all None when none of them has the value."""

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Steady:
    """Figures of the window in which every slot was busy."""

    window_s: float
    requests_per_s: float
    output_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Achieved:
    """Requests in flight as the client saw them: time-weighted mean while all slots had work, and maximum."""

    mean: float | None
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One backend at one concurrency. Warm-up requests count nowhere but in `warmup_requests` and `warmup_failed`.

    `planned` exceeds `requests` when the run was interrupted. Throughput and token counts are of good requests.
    `wall_s` runs from the first byte sent to the end of the last reply. `reconnections` are connections that had to be
    opened again while requests were measured.
    """

    backend: str
    task: str
    concurrency: int
    planned: int
    requests: int
    failed: int
    failures: Mapping[str, int]
    error_rate: float | None
    warmup_requests: int
    warmup_failed: int
    started_s: float | None
    wall_s: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    token_source: TokenSource | None
    tokens_per_event: float | None
    finish_reasons: Mapping[str, int]
    requests_per_s: float | None
    output_tokens_per_s: float | None
    steady: Steady | None
    steady_reason: str | None
    achieved_concurrency: Achieved
    reconnections: int
    ttft_ms: Distribution
    ttfc_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    icl_ms: Distribution
    e2e_ms: Distribution
    send_lag_ms: Distribution
    stream_end_lag_ms: Distribution


@dataclass(frozen=True, slots=True)
class Backend:
    """A measured server, as far as it said; `launched` when the run started it itself."""

    name: str
    url: str
    dialect: str
    model: str | None
    version: str | None
    launched: bool
    model_card: Mapping[str, Any] | None = None
    header_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the run ended: `complete`, `errors` (more than allowed), `interrupted` or `aborted` (a server went away)."""

    status: str
    exit_code: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All of `summary.json`."""

    format: int = FORMAT
    run: str
    command: tuple[str, ...]
    started: str
    finished: str | None
    seed: int
    partial: bool
    verdict: Verdict
    max_error_rate: float
    settings: Mapping[str, Any]
    backends: tuple[Backend, ...]
    requests: int
    failed: int
    error_rate: float | None
    points: tuple[Point, ...] = ()


def encode(value: object) -> bytes:
    """Indented JSON of a dataclass, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(summary: Summary, path: Path) -> None:
    """Write `summary` as JSON; the file is either the old one or the whole new one."""
    write_whole(path, encode(summary))


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step.

    Raises:
        DataError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as exc:
        raise DataError(f"cannot write {path}: {exc.strerror}") from exc


def read(path: Path) -> Summary:
    """The summary in a run folder, or in a file written by `--json`.

    Raises:
        DataError: there is none, it is not JSON, or its format is not known here.
    """
    path = path / "summary.json" if path.is_dir() else path
    return decode_versioned(path, Summary)


def decode_versioned(path: Path, kind: type[T]) -> T:
    """A value of `kind` from a JSON file that carries `format`.

    Raises:
        DataError: the file cannot be read, or is of another format.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        found = msgspec.json.decode(data, type=_Versioned).format
        if found != FORMAT:
            raise DataError(f"{path} has format {found}, this version reads {FORMAT}: use the version that wrote it")
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as exc:
        raise DataError(f"{path} is not what this version writes: {exc}") from exc


class _Versioned(msgspec.Struct):
    format: int
