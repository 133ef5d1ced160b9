"""What a run leaves behind: `summary.json` as typed values, written and read. Fields: `results/README.md`.

Times are milliseconds in `*_ms` fields and seconds in `*_s` fields. A value that does not exist is None, never 0.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ming_eval.errors import DataError
from ming_eval.metrics.prometheus import Energy, ServerView
from ming_eval.metrics.stats import Interval
from ming_eval.metrics.validity import RunValidity, Validity
from ming_eval.targets import DIALECTS
from ming_eval.types import Failure, Outage, TokenSource

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
class Speech:
    """Audio of a point's good requests; `prebuffer_ms` is the smallest start delay with which playing never stalls.

    `stalls` and `stalled_s` are what a listener without such a delay hears, summed over the requests.
    """

    requests: int
    audio_s: float
    ttfa_ms: Distribution
    rtf: Distribution
    rtf_gen: Distribution
    prebuffer_ms: Distribution
    stalls: int
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that met every limit of `slos` (seconds, or a factor) over all issued; failed ones are misses."""

    slos: Mapping[str, float]
    good: int
    requests: int
    share: float
    interval: Interval
    requests_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One of several passes over a point."""

    repeat: int
    requests: int
    failed: int
    requests_per_s: float | None
    output_tokens_per_s: float | None
    ttft_ms: Distribution
    tpot_ms: Distribution
    e2e_ms: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFigures:
    """The good requests of all conversations that are the turn of this number."""

    turn: int
    requests: int
    failed: int
    prompt_tokens: float | None
    cached_share: float | None
    ttft_ms: Distribution
    tpot_ms: Distribution
    e2e_ms: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One backend at one concurrency. Warm-up requests count nowhere but in `warmup_requests` and `warmup_failed`.

    `planned` exceeds `requests` when the run was interrupted. Throughput and token counts are of good requests.
    `wall_s` runs from the first byte sent to the end of the last reply. `reconnections` are connections that had to be
    opened again while requests were measured.

    `rate_per_s` is the rate of an open loop, in which `concurrency` is only the most that may be in flight. `stopped`
    is the rule that ended the point before its last request. Outages of the server are in `outages`, and in no `steady`
    figure. `intervals` are 95 % bootstrap intervals over requests, by name of the figure (`ttft_ms.p50`).
    An `interrupted` point did not get to its end; it has no rates, since what was in flight was given up, and
    `rate_reason` says so. `failure_examples` has one error text for each class in `failures`.
    `usage_over_events` is how many more tokens the server's usage counts than there were events, as a share.
    `connect_ms` is how long it took to open the connections, before the point and in it; it is in no other figure.
    `upload_ms` is sent to the last byte taken by the kernel, `request_bytes` the mean size of a request. Of a point
    that was visited several times, all figures are over all passes, `passes` has each of them and `pass_intervals`
    95 % intervals of Student's t over them. `turns` has the turns of conversations by number.
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
    rate_per_s: float | None = None
    stopped: str | None = None
    outages: tuple[Outage, ...] = ()
    speech: Speech | None = None
    goodput: Goodput | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    usage_over_events: float | None = None
    validity: Validity | None = None
    server: ServerView | None = None
    energy: Energy | None = None
    length_source: str | None = None
    interrupted: bool = False
    rate_reason: str | None = None
    failure_examples: Mapping[str, str] = field(default_factory=dict)
    upload_ms: Distribution = Distribution()
    connect_ms: Distribution = Distribution()
    request_bytes: float | None = None
    passes: tuple[Pass, ...] = ()
    pass_intervals: Mapping[str, Interval] = field(default_factory=dict)
    turns: tuple[TurnFigures, ...] = ()

    @property
    def load(self) -> float:
        """How heavy the load is: requests per second of an open loop, requests in flight of any other."""
        return self.concurrency if self.rate_per_s is None else self.rate_per_s

    @property
    def load_name(self) -> str:
        """The load for people: `c=8`, `2.5/s`, `I2T c=8`."""
        load = f"c={self.concurrency}" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"
        return load if self.task == "T2T" else f"{self.task} {load}"


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

    @property
    def keeps_connections(self) -> bool:
        """True where a connection serves one request after the other; also of a dialect that is not known here."""
        return self.dialect not in DIALECTS or DIALECTS[self.dialect].keeps_alive


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the run ended.

    `complete`, `errors` (more than allowed), `interrupted`, `killed`, `aborted` (a server went away) or `failed` (the
    bundled engine did not start).
    """

    status: str
    exit_code: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What the `summary.json` of every command has."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(RunSummary):
    """`summary.json` of a sweep; `not_started` names the points that a run cut short did not come to."""

    points: tuple[Point, ...] = ()
    validity: RunValidity | None = None
    not_started: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InputFile:
    """A media file of a case: pixels of images and clips, seconds of sounds and clips."""

    name: str
    kind: str
    mime: str
    bytes: int
    width: int | None
    height: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageCase:
    """One case at one backend. `status` is pass, fail or unsupported; `reason` says why it is no pass.

    `control_prompt_tokens` is the size of the same prompt without its media, `media_tokens` what the media added.
    `output` is the beginning of the answer, or of the reasoning where there is no answer. Figures from `ttfa_ms` on
    are of speech.
    """

    backend: str
    modality: str
    id: str
    status: str
    reason: str | None
    prompt: str
    inputs: tuple[InputFile, ...]
    failure: Failure | None
    http_status: int | None
    finish_reason: str | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    output_tokens: int | None
    token_source: TokenSource | None
    output_tokens_per_s: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    control_prompt_tokens: int | None
    media_tokens: int | None
    output: str
    mentions: tuple[str, ...]
    mentioned: tuple[str, ...]
    ttfa_ms: float | None = None
    rtf: float | None = None
    rtf_gen: float | None = None
    stalls: int | None = None
    prebuffer_ms: float | None = None
    audio_s: float | None = None
    sample_rate_hz: int | None = None
    audio_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityResult:
    """One modality at one backend: counts over its cases; figures over those that passed.

    Times and real-time factors are means, tokens, stalls and seconds of audio sums, `prebuffer_ms` is the longest.
    `input_bytes` is the media of all cases. `status` is fail when a case failed, else pass when one passed, else
    unsupported. `planned` exceeds `cases` when the run was cut short.
    """

    backend: str
    modality: str
    status: str
    planned: int
    cases: int
    passed: int
    failed: int
    unsupported: int
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    output_tokens: int | None
    output_tokens_per_s: float | None
    prompt_tokens: int | None
    media_tokens: int | None
    input_bytes: int
    ttfa_ms: float | None
    rtf: float | None
    rtf_gen: float | None
    stalls: int | None
    prebuffer_ms: float | None
    audio_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSummary(RunSummary):
    """`summary.json` of a coverage run; `requests` and `failed` count cases, `error_rate` is their share."""

    modalities: tuple[ModalityResult, ...] = ()
    cases: tuple[CoverageCase, ...] = ()


def encode(value: object) -> bytes:
    """Indented JSON of a dataclass, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(summary: RunSummary, path: Path) -> None:
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


def check_writable(path: Path) -> None:
    """Find out whether `write_whole` would work; leaves nothing behind.

    Raises:
        DataError: it would not.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        draft.touch()
        draft.unlink()
    except OSError as exc:
        raise DataError(f"cannot write {path}: {exc.strerror}; choose another path") from exc


def read(path: Path) -> Summary:
    """The summary of a sweep, in a run folder or in a file written by `--json`.

    Raises:
        DataError: there is none, it is not JSON, or its format is not known here.
    """
    return decode_versioned(_summary_path(path), Summary)


def read_coverage(path: Path) -> CoverageSummary:
    """The summary of a coverage run; otherwise as `read`."""
    return decode_versioned(_summary_path(path), CoverageSummary)


def _summary_path(path: Path) -> Path:
    return path / "summary.json" if path.is_dir() else path


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
