"""What one request did, and the limits it was held to."""

from __future__ import annotations

from dataclasses import dataclass, field

from ming_eval.types import OUTPUT_KINDS, Event, EventKind, Failure, Request


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds.

    first_s: from sending to the first output of a streamed request. idle_s: between two events after that.
    total_s: the whole request, and the only limit of one that is not streamed. connect_s: one connection.
    """

    first_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 600.0
    connect_s: float = 5.0


@dataclass(slots=True)
class Exchange:
    """Everything one request did; times are readings of the client's clock, in seconds.

    `connect_s` is there when a connection had to be opened for this request; set-up is never part of a latency.
    `sample_rate_hz` is the rate of header-less PCM in the reply, None where nobody states it. `uploaded_s` is when the
    kernel had taken the last byte of the request, `request_sha256` the body's digest where it was found beforehand.
    """

    request: Request
    backend: str
    request_bytes: bytes = field(repr=False)
    intended_s: float | None
    sent_s: float
    first_byte_s: float | None = None
    events: list[Event] = field(default_factory=list)
    done_s: float | None = None
    http_status: int | None = None
    failure: Failure | None = None
    error: str | None = None
    connect_s: float | None = None
    reused_connection: bool = True
    retry_after_s: float | None = None
    sample_rate_hz: int | None = None
    uploaded_s: float | None = None
    request_sha256: str | None = None

    @property
    def num_request_bytes(self) -> int:
        """Size of the whole HTTP request."""
        return len(self.request_bytes)

    @property
    def request_body(self) -> bytes:
        """The JSON that was sent."""
        return self.request_bytes.partition(b"\r\n\r\n")[2]

    def has(self, kind: EventKind) -> bool:
        """True when an event of this kind arrived."""
        return any(event.kind is kind for event in self.events)

    def has_output(self) -> bool:
        """True when anything generated arrived."""
        return any(event.kind in OUTPUT_KINDS for event in self.events)

    def fail(self, failure: Failure, error: str, now_s: float) -> None:
        """Record the one failure that ended this exchange."""
        self.failure, self.error, self.done_s = failure, error, now_s


def next_deadline(exchange: Exchange, timeouts: Timeouts) -> tuple[float, Failure]:
    """When the exchange must have made progress, on the client's clock, and what it is called if it has not."""
    total = exchange.sent_s + timeouts.total_s, Failure.TIMEOUT_TOTAL
    if not exchange.request.stream:
        return total
    if exchange.has_output():
        step = exchange.events[-1].time_s + timeouts.idle_s, Failure.TIMEOUT_IDLE
    else:
        step = exchange.sent_s + timeouts.first_s, Failure.TIMEOUT_FIRST
    return min(total, step)
