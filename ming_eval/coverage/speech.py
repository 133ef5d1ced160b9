"""Figures of the speech in one reply."""

from __future__ import annotations

from dataclasses import dataclass

from ming_eval.metrics import audio, latency
from ming_eval.types import RequestRecord


@dataclass(frozen=True, slots=True)
class Speech:
    """How fast speech came and whether a listener would have had to wait; None where it cannot be said."""

    rtf: float | None = None
    rtf_gen: float | None = None
    num_stalls: int | None = None
    prebuffer_s: float | None = None
    audio_s: float | None = None
    sample_rate_hz: int | None = None


def speech_of(record: RequestRecord, data: bytes) -> Speech:
    """The figures of a reply whose speech is `data` as one file; all None where none came or the request failed."""
    pieces = audio.stored_pieces(record)
    if not pieces:
        return Speech()
    playback = audio.play(pieces)
    wav = audio.read_wav(data)
    return Speech(
        rtf=audio.rtf(pieces, latency.t0_s(record)),
        rtf_gen=audio.rtf_gen(pieces),
        num_stalls=None if playback is None else playback.num_stalls,
        prebuffer_s=audio.smallest_prebuffer_s(pieces),
        audio_s=audio.audio_s(pieces),
        sample_rate_hz=None if wav is None else wav[0].sample_rate_hz,
    )
