"""TTFT, TPOT, ITL, E2E and their kin from one request.

t0 is when a request was due (open loop), or the instant before its first byte went out (closed loop). A failed
request has no latency: every function but `send_lag_s` gives None or nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, pairwise
from statistics import fmean, pvariance

from ming_eval.client.exchange import Exchange
from ming_eval.metrics.audio import audio_pieces, audio_s, has_samples, join_audio
from ming_eval.types import Event, EventKind, Reply, RequestRecord, TokenSource, Usage

_TOKEN_KINDS = frozenset({EventKind.TEXT, EventKind.REASONING, EventKind.TOOL_CALL})
_FEW_EVENTS = 8  # whose lengths tell nothing of their spread
_MOST_VARIANCE = 0.7  # of a token's length, over its squared mean


# --- Exchange -> record ------------------------------------------------------------------------------------------


def make_record(
    exchange: Exchange, *, index: int, concurrency: int, warmup: bool, zero_s: float, slot: int | None = None
) -> RequestRecord:
    """The stored form of a finished exchange; `zero_s` is the run's clock zero on the client's clock."""
    assert exchange.done_s is not None, "the exchange has not ended"
    pieces = audio_pieces(exchange.events, exchange.sample_rate_hz)
    outputs = [event for event in exchange.events if _is_output(event)]
    tokens = count_tokens(exchange.events)
    texts = [event for event in outputs if event.kind is EventKind.TEXT]

    def since_zero(events: Sequence[Event], position: int) -> float | None:
        return events[position].time_s - zero_s if events else None

    return RequestRecord(
        id=exchange.request.id,
        backend=exchange.backend,
        task=exchange.request.task,
        concurrency=concurrency,
        warmup=warmup,
        index=index,
        intended_s=None if exchange.intended_s is None else exchange.intended_s - zero_s,
        sent_s=exchange.sent_s - zero_s,
        first_byte_s=None if exchange.first_byte_s is None else exchange.first_byte_s - zero_s,
        first_output_s=since_zero(outputs, 0),
        first_content_s=since_zero(texts, 0),
        first_audio_s=pieces[0].time_s - zero_s if pieces else None,
        last_output_s=since_zero(outputs, -1),
        done_s=exchange.done_s - zero_s,
        output_times_s=tuple(event.time_s - zero_s for event in outputs),
        output_event_tokens=tuple(tokens.per_event),
        num_first_event_tokens=tokens.per_event[0] if tokens.per_event else None,
        num_output_tokens=tokens.total,
        num_prompt_tokens=tokens.usage.prompt_tokens,
        num_cached_tokens=tokens.usage.cached_tokens,
        token_source=tokens.source,
        finish_reason=_last_text(exchange.events, EventKind.FINISH),
        failure=exchange.failure,
        http_status=exchange.http_status,
        error=exchange.error,
        num_request_bytes=exchange.num_request_bytes,
        request_sha256=exchange.request_sha256 or sha256(exchange.request_body).hexdigest(),
        upload_s=None if exchange.uploaded_s is None else exchange.uploaded_s - exchange.sent_s,
        conversation=None if exchange.request.turn is None else exchange.request.turn.conversation,
        turn=None if exchange.request.turn is None else exchange.request.turn.number,
        num_text_chars=sum(len(event.text) for event in texts),
        num_audio_bytes=sum(len(piece.samples) for piece in pieces),
        audio_s=audio_s(pieces),
        connect_s=exchange.connect_s,
        reused_connection=exchange.reused_connection,
        slot=slot,
        num_audio_tokens=tokens.usage.audio_tokens,
        audio_times_s=tuple(piece.time_s - zero_s for piece in pieces),
        audio_durations_s=tuple(piece.duration_s for piece in pieces),
    )


def reply_of(exchange: Exchange, record: RequestRecord) -> Reply:
    """What a finished exchange said; audio as one playable file where its format is known."""
    return Reply(
        record=record,
        text=_joined(exchange.events, EventKind.TEXT),
        reasoning=_joined(exchange.events, EventKind.REASONING),
        audio=join_audio(audio_pieces(exchange.events, exchange.sample_rate_hz)),
        request_body=exchange.request_body,
        logprobs=tuple(each for event in exchange.events for each in event.logprobs),
    )


def _is_output(event: Event) -> bool:
    """True for what was generated; the header of an audio file was not."""
    return event.kind in _TOKEN_KINDS or (event.kind is EventKind.AUDIO and has_samples(event.audio))


def _joined(events: Sequence[Event], kind: EventKind) -> str:
    return "".join(event.text for event in events if event.kind is kind)


def _last_text(events: Sequence[Event], kind: EventKind) -> str | None:
    return next((event.text for event in reversed(events) if event.kind is kind), None)


# --- Tokens ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a reply: in all, and carried by each output-bearing event."""

    total: int | None
    source: TokenSource | None
    per_event: tuple[int, ...]
    usage: Usage


def count_tokens(events: Sequence[Event]) -> TokenCount:
    """Tokens by the server's usage where it covers the reply, else one for each event that carries text.

    Each growth of the usage is spread over the events since the one before: exact where usage comes with every event,
    an estimate where it comes at the end (`_shares`). Where the usage at the end says how many tokens became speech,
    those are the events' with audio and the rest the others'. A usage of 0 beside output is no count.
    """
    per_event, counted, source = _spread_usage(events)
    if source is TokenSource.USAGE:
        per_event = _by_channel(events, counted) or per_event
    if source is None:
        per_event = [int(event.kind in _TOKEN_KINDS) for event in events if _is_output(event)]
        counted = sum(per_event)
        source = TokenSource.EVENTS if counted else None
    usages = [event.usage for event in events if event.usage is not None and event.usage.prompt_tokens]
    return TokenCount(counted or None, source, tuple(per_event), usages[-1] if usages else Usage())


def _spread_usage(events: Sequence[Event]) -> tuple[list[int], int, TokenSource | None]:
    """Tokens per output-bearing event, their sum, and the source: None where usage does not cover the last event."""
    carriers = _TOKEN_KINDS & {event.kind for event in events} or {EventKind.AUDIO}
    per_event: list[int] = []
    lengths: list[int] = []
    uncounted: list[int] = []  # positions in `per_event`
    last = -1
    counted = 0
    source = TokenSource.CONTINUOUS_USAGE
    for event in events:
        if _is_output(event):
            if event.kind in carriers:
                last = len(per_event)
                uncounted.append(last)
            per_event.append(0)
            lengths.append(_length(event))
        elif event.kind is EventKind.FINISH:
            source = TokenSource.USAGE
        elif event.usage is not None and last >= 0 and (event.usage.completion_tokens or 0) > counted:
            total = event.usage.completion_tokens or 0
            for position, share in _shares(total - counted, uncounted or [last], lengths):
                per_event[position] += share
            counted, uncounted = total, []
    return per_event, counted, source if counted and not uncounted else None


def _by_channel(events: Sequence[Event], total: int) -> list[int] | None:
    """Tokens per output-bearing event, speech apart; None where usage does not tell it apart or one has no events."""
    audio = next((e.usage.audio_tokens for e in reversed(events) if e.usage is not None and e.usage.audio_tokens), None)
    outputs = [event for event in events if _is_output(event)]
    is_audio = [event.kind is EventKind.AUDIO for event in outputs]
    if audio is None or audio >= total or all(is_audio) or not any(is_audio):
        return None
    per_event = [0] * len(is_audio)
    for num_tokens, channel in ((audio, True), (total - audio, False)):
        positions = [i for i, is_it in enumerate(is_audio) if is_it is channel]
        for position, share in _shares(num_tokens, positions, [_length(event) for event in outputs]):
            per_event[position] = share
    return per_event


def _shares(total: int, positions: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """`total` over `positions`: one each, the last ones take the rest (an end token is counted and not seen).

    Where there is less than one each the first ones have them. From two each on, `lengths` of all events say what the
    first one holds, which TPOT leaves out: a server that gathers tokens (vLLM's `--stream-interval`) or guesses ahead
    (speculative decoding) sends one token first and then several at a time. The others share evenly, unless the
    lengths between first and last differ by more than those of tokens do.
    """
    if total < 2 * len(positions) or len(positions) < 2:
        return _evenly(total, positions)
    own = [lengths[position] for position in positions]
    if _is_uneven(own[1:-1], total / len(positions)):
        return _by_length(total, positions, lengths)
    first = min(max(1, round(total * own[0] / sum(own))), total - len(own) + 1)
    return chain([(positions[0], first)], _evenly(total - first, positions[1:]))


def _evenly(total: int, positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    base, rest = divmod(total, len(positions))
    extra = positions[len(positions) - rest :] if base else positions[:rest]
    return ((position, base + (position in extra)) for position in positions)


def _by_length(total: int, positions: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    left, left_length = total, sum(lengths[position] for position in positions)
    for position in sorted(positions, key=lengths.__getitem__):
        share = max(1, round(left * lengths[position] / left_length))
        left, left_length = left - share, left_length - lengths[position]
        yield position, share


def _is_uneven(lengths: Sequence[int], tokens_each: float) -> bool:
    """True where events cannot all hold the same number of tokens.

    The variance of a sum of tokens falls with their number: by a third of the squared mean for one token of prose.
    Events that hold 1 to 5 are beyond twice that, events that all hold as many below it.
    """
    if len(lengths) < _FEW_EVENTS:
        return False
    return pvariance(lengths) * tokens_each > _MOST_VARIANCE * fmean(lengths) ** 2


def _length(event: Event) -> int:
    """How much text an event brings, in characters; of speech every piece weighs the same."""
    return len(event.text) or 1


# --- Record -> latencies -----------------------------------------------------------------------------------------


def t0_s(record: RequestRecord) -> float:
    """When the request's clock starts."""
    return record.sent_s if record.intended_s is None else record.intended_s


def ttft_s(record: RequestRecord) -> float | None:
    """Time to the first event with anything generated, in any channel."""
    return _since_t0(record, record.first_output_s)


def ttfc_s(record: RequestRecord) -> float | None:
    """Time to the first visible content: reasoning and audio do not count."""
    return _since_t0(record, record.first_content_s)


def ttfa_s(record: RequestRecord) -> float | None:
    """Time to the first audio samples."""
    return _since_t0(record, record.first_audio_s)


def e2e_s(record: RequestRecord) -> float | None:
    """Time to the last output-bearing event; what the stream does after that is `stream_end_lag_s`."""
    return _since_t0(record, record.last_output_s)


def stream_end_lag_s(record: RequestRecord) -> float | None:
    """From the last output to the end of the reply: late usage, [DONE]."""
    return record.done_s - record.last_output_s if record.ok and record.last_output_s is not None else None


def send_lag_s(record: RequestRecord) -> float | None:
    """How late the client sent a request that was due; None in a closed loop. Known of failed requests too."""
    return None if record.intended_s is None else record.sent_s - record.intended_s


def tpot_s(record: RequestRecord) -> float | None:
    """(last output - first output) / (tokens after the first event); None where there are none."""
    if not record.ok or record.num_output_tokens is None or record.num_first_event_tokens is None:
        return None
    num_later = record.num_output_tokens - record.num_first_event_tokens
    if num_later <= 0 or record.first_output_s is None or record.last_output_s is None:
        return None
    return (record.last_output_s - record.first_output_s) / num_later


def icl_samples_s(record: RequestRecord) -> list[float]:
    """Gaps between output-bearing events."""
    return [after - before for before, after in pairwise(record.output_times_s)] if record.ok else []


def itl_samples_s(record: RequestRecord) -> list[float]:
    """Token-weighted gaps: an event with k tokens after a gap g gives k samples g/k.

    An event without tokens (audio beside text) gives none; the gap runs on to the next one that has some.
    """
    if not record.ok or not record.output_times_s:
        return []
    samples: list[float] = []
    before_s = record.output_times_s[0]
    for time_s, num_tokens in zip(record.output_times_s[1:], record.output_event_tokens[1:], strict=True):
        if num_tokens:
            samples += [(time_s - before_s) / num_tokens] * num_tokens
            before_s = time_s
    return samples


def _since_t0(record: RequestRecord, time_s: float | None) -> float | None:
    return time_s - t0_s(record) if record.ok and time_s is not None else None
