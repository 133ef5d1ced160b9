"""Latencies of one request, each answer worked out by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.metrics import latency
from ming_eval.metrics.audio import PcmFormat, rtf, smallest_prebuffer_s, stored_pieces, wav_header
from ming_eval.types import Event, EventKind, Failure, Request, RequestRecord, Task, TokenSource, Usage
from tests.ming_eval.metrics.builders import ASK, exchange, failed, record, record_of

PCM = struct.pack("<8h", *range(8))  # 8 samples


def text(time_s: float, piece: str = "a") -> Event:
    return Event(EventKind.TEXT, time_s, piece)


def audio(time_s: float, data: bytes = PCM) -> Event:
    return Event(EventKind.AUDIO, time_s, audio=data)


def usage(time_s: float, completion: int | None, prompt: int | None = 5, cached: int | None = None) -> Event:
    return Event(EventKind.USAGE, time_s, usage=Usage(prompt, completion, cached))


def finish(time_s: float, reason: str = "stop") -> Event:
    return Event(EventKind.FINISH, time_s, reason)


# --- record ---


def test_record_keeps_when_each_piece_of_speech_came_and_how_long_it_plays() -> None:
    """8 samples at 16 Hz play for half a second; the play-out can be made again from the record alone."""
    source = exchange([audio(12.0), audio(12.25), finish(12.5)], sent_s=11.0, sample_rate_hz=16)
    stored = record_of(source, zero_s=10.0)
    assert stored.audio_times_s == (2.0, 2.25)
    assert stored.audio_durations_s == (0.5, 0.5)
    pieces = stored_pieces(stored)
    assert rtf(pieces, latency.t0_s(stored)) == pytest.approx(1.25)
    assert smallest_prebuffer_s(pieces) == 0.0
    assert stored_pieces(replace(stored, failure=Failure.RESET)) == ()


def test_record_keeps_audio_tokens_where_usage_has_them() -> None:
    event = Event(EventKind.USAGE, 2.0, usage=Usage(5, 9, None, 7))
    assert record_of(exchange([text(1.0), finish(1.5), event])).num_audio_tokens == 7


def test_record_of_a_reply() -> None:
    events = [
        Event(EventKind.ROLE, 11.5, "assistant"),
        Event(EventKind.REASONING, 12.0, "hm"),
        text(12.5, "one "),
        text(13.0, "two"),
        finish(13.0, "length"),
        usage(13.5, 4, prompt=7, cached=2),
        Event(EventKind.DONE, 13.5),
    ]
    source = exchange(events, sent_s=11.0, done_s=13.6, first_byte_s=11.4, http_status=200, connect_s=0.1)
    assert record_of(source, zero_s=10.0) == RequestRecord(
        id="q",
        backend="fake",
        task=Task.T2T,
        concurrency=4,
        warmup=False,
        index=0,
        intended_s=None,
        sent_s=1.0,
        first_byte_s=pytest.approx(1.4),
        first_output_s=2.0,
        first_content_s=2.5,
        first_audio_s=None,
        last_output_s=3.0,
        done_s=pytest.approx(3.6),
        output_times_s=(2.0, 2.5, 3.0),
        output_event_tokens=(1, 1, 2),
        num_first_event_tokens=1,
        num_output_tokens=4,
        num_prompt_tokens=7,
        num_cached_tokens=2,
        token_source=TokenSource.USAGE,
        finish_reason="length",
        failure=None,
        http_status=200,
        error=None,
        num_request_bytes=21,
        request_sha256=sha256(b"{}").hexdigest(),
        num_text_chars=7,
        connect_s=0.1,
    )


def test_values_that_do_not_exist_are_none() -> None:
    empty = record_of(exchange(failure=Failure.CONNECT, error="connection refused"))
    assert empty.first_output_s is empty.last_output_s is empty.first_byte_s is None
    assert empty.num_output_tokens is empty.num_first_event_tokens is empty.token_source is None
    assert empty.audio_s is empty.finish_reason is None
    assert (empty.failure, empty.error, empty.ok) == (Failure.CONNECT, "connection refused", False)


def test_reply_joins_its_channels() -> None:
    source = exchange([Event(EventKind.REASONING, 1.0, "hm"), text(1.1, "a"), text(1.2, "b"), audio(1.3)])
    reply = latency.reply_of(source, record_of(source))
    assert (reply.text, reply.reasoning, reply.audio, reply.request_body) == ("ab", "hm", PCM, b"{}")


def test_audio_becomes_one_file_where_its_rate_is_known() -> None:
    source = exchange([audio(1.0), audio(2.0)], sample_rate_hz=16_000)
    made = record_of(source)
    assert latency.reply_of(source, made).audio == wav_header(PcmFormat(16_000), 32) + PCM + PCM
    assert made.audio_s == pytest.approx(16 / 16_000)
    assert made.num_audio_bytes == 32
    assert record_of(exchange([audio(1.0)])).audio_s is None


def test_container_header_is_no_audio() -> None:
    header = wav_header(PcmFormat(16_000), 0)
    made = record_of(exchange([audio(1.0, header), audio(2.0)]))
    assert (made.first_audio_s, made.first_output_s, made.output_times_s) == (2.0, 2.0, (2.0,))
    assert made.audio_s == pytest.approx(8 / 16_000)  # the header's rate holds for what follows


# --- tokens ---


def count(*events: Event) -> tuple[int | None, TokenSource | None, tuple[int, ...]]:
    result = latency.count_tokens(events)
    return result.total, result.source, result.per_event


def test_final_usage_is_spread_evenly() -> None:
    assert count(text(1), text(2), text(3), finish(3), usage(4, 6)) == (6, TokenSource.USAGE, (2, 2, 2))


def test_token_that_is_counted_and_not_seen_goes_to_the_last_event() -> None:
    assert count(text(1), text(2), text(3), finish(3), usage(4, 4)) == (4, TokenSource.USAGE, (1, 1, 2))


def test_more_events_than_tokens_leaves_the_first_event_its_token() -> None:
    assert count(text(1), text(2), text(3), finish(3), usage(4, 2)) == (2, TokenSource.USAGE, (1, 1, 0))


def test_text_says_who_carried_several_tokens() -> None:
    """vLLM 0.32.0 with --stream-interval 5: one token, then five at a time, and what is left; by continuous usage
    they were (1, 5, 5, 5, 5, 3)."""
    told = " k", "\ufffd\ufffd256open depen", "im\ufffdation>ud", "co limits00\x14 needs"
    rest = " connect eighverage\ufffd their", " 128masterpcm"
    events = [Event(EventKind.TEXT, 0.015 * i, each) for i, each in enumerate((*told, *rest))]
    total, source, per_event = count(*events, finish(0.1, "length"), usage(0.1, 24))
    assert (total, source) == (24, TokenSource.USAGE)
    assert sum(per_event) == 24
    assert per_event[0] == 1  # which is what TPOT leaves out: 4 of them would make it 15 % too long
    assert all(abs(found - true) <= 2 for found, true in zip(per_event, (1, 5, 5, 5, 5, 3), strict=True))


_SENTENCE = (
    " The| scheduler| picks| what| to| run| next|:| running| requests| first|,| then| waiting| ones|,| old|est| first|."
    "| A| request| has| tokens| known| and| tokens| comput|ed|;| pre|fill|,| ch|unk|ed| pre|fill| and| dec|ode| all"
    "| mean| letting| the| second| count| catch| up| with| the| first|.| Whoever| comes| last| waits|."
).split("|")


def _in_groups(sizes: Sequence[int]) -> tuple[int, ...]:
    """Tokens per event as they are estimated of a sentence that came in events of so many tokens."""
    rest = iter(_SENTENCE)
    texts = ["".join(islice(rest, size)) for size in sizes]
    events = [Event(EventKind.TEXT, float(i), each) for i, each in enumerate(texts)]
    return count(*events, finish(99), usage(99, sum(sizes)))[2]


def test_words_of_unlike_lengths_make_no_uneven_events() -> None:
    """Five tokens in each event: shares by length would be 3 to 6, and ITL p99 16.7 ms where 10 is true."""
    assert set(_in_groups([5] * 11)) <= {4, 5, 6}


def test_a_server_that_guesses_ahead_has_events_of_one_token_and_of_many() -> None:
    """Where they differ by more than words do, an even share would hide the gaps before single tokens."""
    sizes = (1, 5, 1, 4, 1, 5, 5, 1, 5, 1, 4, 5)
    found = _in_groups(sizes)
    assert sum(found) == sum(sizes)
    assert all(abs(one - true) <= 2 for one, true in zip(found, sizes, strict=True))
    assert sum(one == 1 for one in found) >= 3


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 400))
def test_every_token_is_someones_and_no_event_goes_without(lengths: list[int], more: int) -> None:
    total = len(lengths) + more
    events = [Event(EventKind.TEXT, float(i), "x" * length) for i, length in enumerate(lengths)]
    _, _, per_event = count(*events, finish(99), usage(99, total))
    assert sum(per_event) == total
    assert min(per_event) >= 1


def test_usage_with_every_event_is_exact() -> None:
    events = text(1), usage(1, 3), text(2), usage(2, 4), text(3), finish(3), usage(3, 9)
    assert count(*events) == (9, TokenSource.USAGE, (3, 1, 5))


def test_continuous_usage_counts_a_reply_that_was_cut() -> None:
    assert count(text(1), usage(1, 3), text(2), usage(2, 4)) == (4, TokenSource.CONTINUOUS_USAGE, (3, 1))


def test_usage_that_does_not_cover_the_reply_is_no_count() -> None:
    assert count(usage(1, 1), text(1), usage(1, 1), text(2), text(3)) == (3, TokenSource.EVENTS, (1, 1, 1))


def test_usage_of_zero_is_no_count() -> None:
    assert count(text(1), text(2), finish(2), usage(2, 0, prompt=0)) == (2, TokenSource.EVENTS, (1, 1))
    assert latency.count_tokens([text(1), usage(2, 0, prompt=0)]).usage == Usage()


def test_zero_usage_beside_audio_does_not_wipe_out_the_count() -> None:
    events = text(1), text(2), audio(3), usage(3, 0), audio(4), usage(4, 0), finish(4), usage(5, 2)
    assert count(*events) == (2, TokenSource.USAGE, (1, 1, 0, 0))


def test_audio_alone_has_tokens_only_by_usage() -> None:
    assert count(audio(1), audio(2), finish(2)) == (None, None, (0, 0))
    assert count(audio(1), audio(2), finish(2), usage(3, 50)) == (50, TokenSource.USAGE, (25, 25))


def test_tokens_of_speech_are_not_credited_to_the_text() -> None:
    """3 tokens of text and 4 of speech: a gap of the text is the text's, not half of it."""
    events = [text(1.0), text(1.1), text(1.2), audio(1.5), audio(1.9), finish(2.0)]
    total = Event(EventKind.USAGE, 2.1, usage=Usage(5, 7, None, 4))
    assert count(*events, total) == (7, TokenSource.USAGE, (1, 1, 1, 2, 2))
    gaps = latency.itl_samples_s(record_of(exchange([*events, total])))
    assert gaps == pytest.approx([0.1, 0.1, 0.15, 0.15, 0.2, 0.2])


def test_no_output_no_count() -> None:
    assert count(finish(1), usage(1, 1)) == (None, None, ())


# --- latencies ---


def test_closed_loop_counts_from_sending() -> None:
    one = record(sent_s=1.0, times_s=(1.5, 1.7), first_content_s=1.6, first_audio_s=1.65, done_s=2.0)
    assert latency.ttft_s(one) == pytest.approx(0.5)
    assert latency.ttfc_s(one) == pytest.approx(0.6)
    assert latency.ttfa_s(one) == pytest.approx(0.65)
    assert latency.e2e_s(one) == pytest.approx(0.7)
    assert latency.stream_end_lag_s(one) == pytest.approx(0.3)
    assert latency.send_lag_s(one) is None


def test_open_loop_counts_from_when_it_was_due() -> None:
    late = record(sent_s=1.0, intended_s=0.8, times_s=(1.5, 1.7))
    assert latency.ttft_s(late) == pytest.approx(0.7)
    assert latency.e2e_s(late) == pytest.approx(0.9)
    assert latency.send_lag_s(late) == pytest.approx(0.2)


def test_tpot_excludes_the_first_event() -> None:
    one = record(sent_s=0.0, times_s=(2.0, 2.1, 2.3), tokens=(2, 1, 2))
    assert latency.tpot_s(one) == pytest.approx(0.1)


def test_tpot_is_none_without_later_tokens() -> None:
    assert latency.tpot_s(record(times_s=(1.0,), tokens=(4,))) is None
    assert latency.tpot_s(record(num_output_tokens=None)) is None


def test_itl_is_weighted_by_tokens_and_icl_is_not() -> None:
    one = record(times_s=(1.0, 1.1, 1.4), tokens=(1, 1, 3))
    assert latency.itl_samples_s(one) == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert latency.icl_samples_s(one) == pytest.approx([0.1, 0.3])


def test_itl_runs_on_over_events_without_tokens() -> None:
    one = record(times_s=(1.0, 1.2, 1.4), tokens=(1, 0, 2))
    assert latency.itl_samples_s(one) == pytest.approx([0.2, 0.2])
    assert sum(latency.itl_samples_s(one)) == pytest.approx(0.4)


def test_failed_requests_have_no_latency() -> None:
    broken = failed(times_s=(1.0, 1.1), intended_s=-0.5)
    figures = (latency.ttft_s, latency.ttfc_s, latency.ttfa_s, latency.e2e_s, latency.tpot_s, latency.stream_end_lag_s)
    assert [figure(broken) for figure in figures] == [None] * 6
    assert latency.itl_samples_s(broken) == latency.icl_samples_s(broken) == []
    assert latency.send_lag_s(broken) == 0.5


def test_times_are_relative_to_zero_in_an_open_loop_too() -> None:
    source = exchange([text(12.0)], sent_s=11.0, intended_s=10.5, done_s=12.0)
    made = record_of(source, zero_s=10.0)
    assert (made.intended_s, made.sent_s, made.output_times_s) == (0.5, 1.0, (2.0,))


def test_speech_task_is_kept() -> None:
    speech = Request(id="s", messages=ASK.messages, task=Task.T2S)
    assert record_of(exchange([audio(1.0)], request=speech)).task is Task.T2S
