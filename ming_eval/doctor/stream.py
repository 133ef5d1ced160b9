"""A streamed reply, byte by byte -> what is in it and what is odd about it; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ming_eval.client import wire
from ming_eval.client.page import Page
from ming_eval.client.sse import EventSplitter, LineSplitter
from ming_eval.metrics.audio import audio_pieces, audio_s
from ming_eval.targets import Dialect
from ming_eval.types import OUTPUT_KINDS, Event, EventKind

_AT_ONCE = 4  # output events in one piece, and nothing outside it, from which on the reply was held back as a whole
_FEWEST = 8
_EARLY_S = 0.002
_TOO_FAST_S = 0.02  # a whole reply within so long may well fit into one packet


@dataclass(slots=True)
class Traits:
    """What one stream shows; `oddities` are sentences. Times are seconds after sending."""

    oddities: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    num_usages: int = 0
    has_usage_at_end: bool = False
    is_done: bool = False
    is_sse: bool = False
    error: str | None = None

    @property
    def outputs(self) -> list[Event]:
        """Events with generated output."""
        return [event for event in self.events if event.kind in OUTPUT_KINDS]

    @property
    def finish_reason(self) -> str | None:
        """The last one that was given."""
        return next((event.text for event in reversed(self.events) if event.kind is EventKind.FINISH), None)

    @property
    def num_tokens(self) -> int | None:
        """Output tokens by the last usage, None where it counts none."""
        counts = [event.usage.completion_tokens for event in self.events if event.usage is not None]
        return next((count for count in reversed(counts) if count), None)

    @property
    def tokens_per_event(self) -> float | None:
        """By usage over events that carry output; a token that ends the answer is counted by some and shows in none."""
        if not self.num_tokens or not self.outputs:
            return None
        num_shown = self.num_tokens - (self.finish_reason == "stop" and self.num_tokens > len(self.outputs))
        return num_shown / len(self.outputs)

    @property
    def is_at_once(self) -> bool:
        """True when all output came in one piece although it was many events."""
        outputs = self.outputs
        return len(outputs) >= _AT_ONCE and len({event.time_s for event in outputs}) == 1 and not self.is_too_fast

    @property
    def events_per_arrival(self) -> float:
        """Output events that came in one piece, on average; 1 where the reply is too short or too fast to tell."""
        times = [event.time_s for event in self.outputs]
        if len(times) < _FEWEST or times[-1] - times[0] < _TOO_FAST_S:
            return 1.0
        return len(times) / len(set(times))

    @property
    def is_too_fast(self) -> bool:
        """True when the first output came so soon that nothing can be said of how it was spread."""
        return bool(self.outputs) and self.outputs[0].time_s < _TOO_FAST_S

    def audio_s(self, sample_rate_hz: int | None) -> float | None:
        """Seconds of speech; None where there is none or its rate is unknown."""
        return audio_s(audio_pieces(self.events, sample_rate_hz))


def read_stream(page: Page, dialect: Dialect) -> Traits:
    """Everything about a reply that was asked for as a stream, whatever came."""
    traits = Traits()
    kind = page.headers.get("content-type", "")
    traits.is_sse = "event-stream" in kind or "ndjson" in kind
    if not traits.is_sse:
        traits.oddities.append(f"content type is {kind or 'missing'!r}, not text/event-stream")
    if "json" in kind and "ndjson" not in kind:
        _read_whole(page, dialect, traits)
        return traits
    seen: list[dict[str, Any]] = []
    try:
        for time_s, name, data in _events(page, dialect):
            _take(time_s, name, data, dialect, traits, seen)
    except wire.WireError as exc:
        traits.error = f"malformed event: {exc}"
    traits.oddities += [*_odd_bytes(page.body, dialect), *_odd_chunks(seen, traits, dialect)]
    return traits


def _read_whole(page: Page, dialect: Dialect, traits: Traits) -> None:
    time_s = page.arrivals[-1][0] if page.arrivals else 0.0
    try:
        traits.events = wire.decode_reply(page.body, time_s, dialect)
    except wire.WireError as exc:
        traits.error = f"malformed reply: {exc}"
    traits.num_usages = sum(event.kind is EventKind.USAGE for event in traits.events)


def _events(page: Page, dialect: Dialect) -> Iterator[tuple[float, str, bytes]]:
    splitter = LineSplitter() if dialect.api == "generate" else EventSplitter()
    for time_s, piece in page.arrivals:
        for name, data in splitter.feed(piece):
            yield time_s, name, data


def _take(time_s: float, name: str, data: bytes, dialect: Dialect, traits: Traits, seen: list[dict[str, Any]]) -> None:
    if data == b"[DONE]":
        traits.is_done = True
        return
    if traits.is_done:
        traits.oddities.append("events after [DONE]")
        return
    if name == "error":
        traits.error = wire.error_text(data)
        return
    if name:
        traits.oddities.append(f"events have a name ({name!r})")
    found = wire.decode_chunk(data, time_s, dialect) if data else []
    traits.events += found
    traits.num_usages += any(event.kind is EventKind.USAGE for event in found)
    traits.error = next((event.text for event in found if event.kind is EventKind.ERROR), traits.error)
    chunk = msgspec.json.decode(data) if data else {}
    if isinstance(chunk, dict):
        seen.append(chunk)


def _odd_bytes(body: bytes, dialect: Dialect) -> Iterator[str]:
    if dialect.api == "generate":
        return
    if b"\r\n" in body:
        yield "lines end with CR LF"
    if body.startswith(b"\xef\xbb\xbf"):
        yield "a byte order mark at the beginning"
    if body.startswith(b":") or b"\n:" in body:
        yield "comments between the events"
    if b"data:{" in body:
        yield "no blank after `data:`"


def _odd_chunks(seen: list[dict[str, Any]], traits: Traits, dialect: Dialect) -> Iterator[str]:
    """What the contents show; `seen` are the decoded chunks."""
    if dialect.api == "generate":
        return
    if not traits.is_done:
        yield "no [DONE] at the end"
    if len({chunk["id"] for chunk in seen if chunk.get("id") is not None}) > 1:
        yield "the id changes within a reply"
    if sum(event.kind is EventKind.FINISH for event in traits.events) > 1:
        yield "more than one finish_reason"
    roles = [event.time_s for event in traits.events if event.kind is EventKind.ROLE]
    outputs = traits.outputs
    if roles and outputs and outputs[0].time_s - roles[0] > _EARLY_S:
        yield f"a role event {1000 * (outputs[0].time_s - roles[0]):.0f} ms before the first token"
    if seen and traits.num_usages == 1 and seen[-1].get("choices") and seen[-1].get("usage"):
        ends = any(isinstance(each, dict) and each.get("finish_reason") for each in seen[-1]["choices"])
        yield "usage rides on the finish chunk" if ends else "usage comes with a choice that says nothing"
    if any(chunk.get("modality") for chunk in seen):
        yield "chunks name their modality; speech comes as content"
