"""Speech in a reply: how long it is, how fast it came, and whether a player would have run dry.

Pieces are PCM16 without header at a stated rate, whole WAV files, or a WAV header followed by bare samples.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ming_eval.types import Event, EventKind, RequestRecord

_CONTAINERS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """How samples are laid out: interleaved integers, little-endian."""

    sample_rate_hz: int
    num_channels: int = 1
    sample_bytes: int = 2

    @property
    def bytes_per_s(self) -> int:
        """Bytes that one second takes."""
        return self.sample_rate_hz * self.num_channels * self.sample_bytes


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """Samples that arrived at `time_s`; `duration_s` is None where no rate is known."""

    time_s: float
    samples: bytes
    format: PcmFormat | None

    @property
    def duration_s(self) -> float | None:
        """Seconds of audio."""
        return None if self.format is None else len(self.samples) / self.format.bytes_per_s


class Timed(Protocol):
    """A piece of audio as far as its timing goes: when it came, in seconds, and how long it plays."""

    @property
    def time_s(self) -> float: ...

    @property
    def duration_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A piece of which a record keeps the timing, not the samples."""

    time_s: float
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Playback:
    """What a listener hears: how often playing stops for lack of samples, and for how long in all."""

    num_stalls: int
    stalled_s: float


def audio_pieces(events: Iterable[Event], sample_rate_hz: int | None = None) -> tuple[AudioPiece, ...]:
    """The samples of a reply in order of arrival; a header without samples gives no piece.

    `sample_rate_hz` holds for bare PCM16; the header of a piece wins and holds for the pieces after it. Only the first
    piece is looked at for a compressed file: samples begin with its two bytes as well, once in 20,000 pieces.
    """
    pcm = None if sample_rate_hz is None else PcmFormat(sample_rate_hz)
    pieces: list[AudioPiece] = []
    for event in events:
        if event.kind is EventKind.AUDIO:
            if event.sample_rate_hz is not None:
                pcm = PcmFormat(event.sample_rate_hz)
            may_be_file = not pieces and event.sample_rate_hz is None
            pcm, samples = _read_piece(event.audio, pcm, may_be_file=may_be_file)
            if samples:
                pieces.append(AudioPiece(event.time_s, samples, pcm))
    return tuple(pieces)


def stored_pieces(record: RequestRecord) -> tuple[StoredPiece, ...]:
    """The pieces of a stored request, none for one that failed; times are seconds since the run's clock zero."""
    pairs = zip(record.audio_times_s, record.audio_durations_s, strict=True)
    return tuple(StoredPiece(*pair) for pair in pairs) if record.ok else ()


def has_samples(data: bytes) -> bool:
    """False for the header of a WAV file alone."""
    wav = read_wav(data)
    return bool(data if wav is None else wav[1])


def audio_s(pieces: Sequence[Timed]) -> float | None:
    """Seconds of audio in all; None when there is none or a rate is unknown."""
    durations = [piece.duration_s for piece in pieces]
    known = [duration for duration in durations if duration is not None]
    return sum(known) if known and len(known) == len(durations) else None


def rtf(pieces: Sequence[Timed], t0_s: float) -> float | None:
    """Real-time factor: (last audio - t0) / seconds of audio."""
    total_s = audio_s(pieces)
    return (pieces[-1].time_s - t0_s) / total_s if total_s else None


def rtf_gen(pieces: Sequence[Timed]) -> float | None:
    """Real-time factor of generation alone: (last audio - first audio) / seconds of audio; None for one piece."""
    total_s = audio_s(pieces)
    return (pieces[-1].time_s - pieces[0].time_s) / total_s if total_s and len(pieces) > 1 else None


def play(pieces: Sequence[Timed], prebuffer_s: float = 0.0) -> Playback | None:
    """Play-out by a listener who starts `prebuffer_s` after the first samples came and then plays what is there."""
    if audio_s(pieces) is None:
        return None
    played_until_s = pieces[0].time_s + prebuffer_s
    num_stalls, stalled_s = 0, 0.0
    for piece in pieces:
        late_s = piece.time_s - played_until_s
        if late_s > 0:
            num_stalls += 1
            stalled_s += late_s
            played_until_s = piece.time_s
        played_until_s += piece.duration_s or 0.0
    return Playback(num_stalls, stalled_s)


def smallest_prebuffer_s(pieces: Sequence[Timed]) -> float | None:
    """The shortest `prebuffer_s` with which `play` never stalls."""
    if audio_s(pieces) is None:
        return None
    lead_s, needed_s = 0.0, 0.0
    for piece in pieces:
        needed_s = max(needed_s, piece.time_s - pieces[0].time_s - lead_s)
        lead_s += piece.duration_s or 0.0
    return needed_s


def join_audio(pieces: Sequence[AudioPiece]) -> bytes:
    """One file that plays: a WAV around all samples, or the bytes as they came where their format is unknown."""
    samples = b"".join(piece.samples for piece in pieces)
    pcm = pieces[0].format if pieces else None
    return samples if pcm is None else wav_header(pcm, len(samples)) + samples


def wav_header(pcm: PcmFormat, num_bytes: int) -> bytes:
    """The 44 bytes in front of `num_bytes` bytes of samples."""
    frame_bytes = pcm.num_channels * pcm.sample_bytes
    layout = struct.pack(
        "<HHIIHH", 1, pcm.num_channels, pcm.sample_rate_hz, pcm.bytes_per_s, frame_bytes, 8 * pcm.sample_bytes
    )
    return b"RIFF%bWAVEfmt %b%bdata%b" % (_u32(36 + num_bytes), _u32(16), layout, _u32(num_bytes))


def read_wav(data: bytes) -> tuple[PcmFormat, bytes] | None:
    """Format and samples of a WAV file, None for anything else.

    A header written before its samples has an open data size (0 or 0xFFFFFFFF): all that is there counts.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    pcm: PcmFormat | None = None
    start = 12
    while start + 8 <= len(data):
        name, (size,) = data[start : start + 4], struct.unpack_from("<I", data, start + 4)
        start += 8
        if name == b"fmt " and start + 16 <= len(data):
            _, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, start)
            pcm = PcmFormat(rate, channels, bits // 8) if rate and channels and bits >= 8 else None
        elif name == b"data":
            return None if pcm is None else (pcm, data[start : start + size] if size else data[start:])
        start += size + size % 2
    return None


def _read_piece(data: bytes, pcm: PcmFormat | None, *, may_be_file: bool) -> tuple[PcmFormat | None, bytes]:
    if (wav := read_wav(data)) is not None:
        return wav
    if may_be_file and data.startswith(_CONTAINERS):  # a compressed file: bytes, but not a known number of samples
        return None, data
    return pcm, data


def _u32(value: int) -> bytes:
    return struct.pack("<I", min(value, 0xFFFFFFFF))
