"""Speech figures, each answer worked out by hand: pieces of a known length at known times."""

from __future__ import annotations

import io
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.metrics import audio
from ming_eval.metrics.audio import AudioPiece, PcmFormat, Playback
from ming_eval.types import Event, EventKind

RATE_HZ = 1000
PCM = PcmFormat(RATE_HZ)


def piece(time_s: float, duration_s: float) -> AudioPiece:
    return AudioPiece(time_s, bytes(round(duration_s * PCM.bytes_per_s)), PCM)


def wav(num_samples: int, rate_hz: int = RATE_HZ, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file written by the standard library."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(bytes(num_samples * channels * width))
    return buffer.getvalue()


def pieces_of(*datas: bytes, rate_hz: int | None = None) -> tuple[AudioPiece, ...]:
    events = [Event(EventKind.AUDIO, float(i), audio=data) for i, data in enumerate(datas)]
    return audio.audio_pieces([Event(EventKind.TEXT, 0.0, "a"), *events], rate_hz)


# --- reading ---


@pytest.mark.parametrize(("channels", "width"), [(1, 2), (2, 2), (1, 4)])
def test_length_comes_from_the_files_header(channels: int, width: int) -> None:
    (only,) = pieces_of(wav(500, channels=channels, width=width), rate_hz=24_000)
    assert only.duration_s == pytest.approx(0.5)
    assert only.format == PcmFormat(RATE_HZ, channels, width)


def test_every_piece_may_be_a_file() -> None:
    pieces = pieces_of(wav(500), wav(250))
    assert audio.audio_s(pieces) == pytest.approx(0.75)
    joined = audio.join_audio(pieces)
    with wave.open(io.BytesIO(joined)) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (750, RATE_HZ, 1)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_open_size_counts_what_is_there(size: int) -> None:
    data = wav(500)
    opened = data[:40] + size.to_bytes(4, "little") + data[44:]
    assert audio.audio_s(pieces_of(opened)) == pytest.approx(0.5)


def test_header_alone_is_no_piece_and_holds_for_bare_samples() -> None:
    (only,) = pieces_of(wav(0), bytes(1000))
    assert (only.time_s, only.duration_s) == (1.0, pytest.approx(0.5))
    assert not audio.has_samples(wav(0))
    assert audio.has_samples(wav(1))


def test_samples_that_begin_like_an_mp3_are_samples() -> None:
    """0xfbff is the sample -1025: a stream in which one piece began so had no length, and no real-time factor."""
    loud = b"\xff\xfb" * 500
    assert audio.audio_s(pieces_of(bytes(1000), loud, bytes(1000), rate_hz=RATE_HZ)) == pytest.approx(1.5)
    said = Event(EventKind.AUDIO, 0.0, audio=loud, sample_rate_hz=RATE_HZ)
    assert audio.audio_s(audio.audio_pieces([said])) == pytest.approx(0.5)
    assert audio.audio_s(pieces_of(b"\xff\xfb" + bytes(998), rate_hz=RATE_HZ)) is None  # an MP3 for all we know


def test_chunks_before_the_samples_are_skipped() -> None:
    data = wav(500)
    listed = data[:36] + b"LIST" + (3).to_bytes(4, "little") + b"abc\0" + data[36:]
    assert audio.audio_s(pieces_of(listed)) == pytest.approx(0.5)


def test_length_is_unknown_without_a_rate_or_in_a_compressed_file() -> None:
    assert audio.audio_s(pieces_of(bytes(100))) is None
    assert audio.audio_s(pieces_of(b"fLaC" + bytes(100), rate_hz=RATE_HZ)) is None
    assert audio.audio_s(()) is None
    assert audio.join_audio(pieces_of(b"fLaC" + bytes(3))) == b"fLaC\0\0\0"


@given(st.binary(max_size=80))
def test_random_bytes_are_never_misread(data: bytes) -> None:
    for broken in (data, wav(4)[: len(data)], wav(0)[:12] + data):
        audio.audio_pieces([Event(EventKind.AUDIO, 0.0, audio=broken)], RATE_HZ)


# --- real-time factor ---


def test_rtf() -> None:
    pieces = [piece(1.0, 0.5), piece(1.4, 0.5), piece(2.0, 1.0)]
    assert audio.rtf(pieces, t0_s=0.5) == pytest.approx(0.75)  # 1.5 s for 2 s of audio
    assert audio.rtf_gen(pieces) == pytest.approx(0.5)


def test_rtf_that_does_not_exist() -> None:
    assert audio.rtf([], 0.0) is None
    assert audio.rtf_gen([piece(1.0, 0.5)]) is None
    assert audio.rtf(pieces_of(bytes(10)), 0.0) is None


# --- play-out ---


def test_playback_in_time_has_no_stall() -> None:
    assert audio.play([piece(1.0, 0.5), piece(1.5, 0.5), piece(1.6, 0.5)]) == Playback(0, 0.0)


def test_playback_runs_dry() -> None:
    # Plays 1.0 to 1.5, waits to 1.8, plays to 2.3 and on to 2.8, waits to 3.0.
    pieces = [piece(1.0, 0.5), piece(1.8, 0.5), piece(2.1, 0.5), piece(3.0, 0.5)]
    played = audio.play(pieces)
    assert played is not None
    assert played.num_stalls == 2
    assert played.stalled_s == pytest.approx(0.5)
    assert audio.smallest_prebuffer_s(pieces) == pytest.approx(0.5)
    played = audio.play(pieces, prebuffer_s=0.3)
    assert played is not None
    assert (played.num_stalls, played.stalled_s) == (1, pytest.approx(0.2))


def test_playback_of_unknown_audio() -> None:
    assert audio.play([]) is None
    assert audio.smallest_prebuffer_s(pieces_of(bytes(10))) is None


gaps = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 900)), min_size=1, max_size=12)


@given(gaps)
def test_smallest_prebuffer_is_enough_and_no_longer_than_needed(schedule: list[tuple[int, int]]) -> None:
    pieces, time_ms = [], 0
    for gap_ms, duration_ms in schedule:
        time_ms += gap_ms
        pieces.append(piece(time_ms / 1000, duration_ms / 1000))
    needed_s = audio.smallest_prebuffer_s(pieces)
    assert needed_s is not None
    enough = audio.play(pieces, needed_s + 1e-6)
    assert enough is not None
    assert enough.num_stalls == 0
    if needed_s > 0:
        short = audio.play(pieces, needed_s - 1e-4)
        assert short is not None
        assert short.num_stalls > 0
