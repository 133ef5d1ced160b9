"""Media as it arrives and as it leaves preprocessing, and the errors between; plain data, no decoder."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from engine.core.request import MediaKind
from engine.errors import InvalidRequest

ACCEPTED: dict[MediaKind, str] = {
    "image": "PNG, JPEG, WebP, GIF or BMP",
    "audio": "WAV, MP3, FLAC or OGG",
    "video": "MP4, WebM or MOV (H.264, HEVC, VP8, VP9 or AV1), or a list of JPEG frames",
}

FRAME_LIST = "video/jpeg"  # the type under which clients send a video as JPEG frames


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """A file as sent, or the files of a frame list; `mime` is the type that the sender claims, None for no claim."""

    parts: tuple[bytes, ...]
    mime: str | None


@dataclass(frozen=True, slots=True)
class MediaArray:
    """One encoder chunk: an image, a frame pair of a video, or an audio clip.

    `data` is row-major in `dtype` (a numpy name). Pixels are uint8 patches [P, M], to be normalised as
    `engine.inputs.image.normalise` does; audio is float32 log-mel frames [L, num_mels]. `grid` is (1, h, w) in patches
    for pixels, None for audio. `digest` identifies the source file and the chunk of it. `timestamp_s` is the time of a
    frame pair, None for the others.
    """

    shape: tuple[int, ...]
    dtype: str
    data: bytes
    grid: tuple[int, int, int] | None
    num_tokens: int
    digest: bytes
    timestamp_s: float | None = None


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """A medium ready for its encoder: one array for an image or a clip, one for each frame pair of a video."""

    kind: MediaKind
    arrays: tuple[MediaArray, ...]


def parse_data_url(url: str, kind: MediaKind) -> EncodedMedia:
    """`data:[type];base64,...`; of a video of type video/jpeg, the payload is a list of frames with commas between.

    Raises:
        InvalidRequest: no base64 data URL, a character outside the alphabet, wrong padding, or nothing in it.
    """
    header, comma, payload = url.partition(",")
    scheme, _, description = header.partition(":")
    mime, *parameters = (part.strip().lower() for part in description.split(";"))
    if not comma or scheme.lower() != "data" or "base64" not in parameters[-1:]:
        raise invalid_media(f"the {kind} URL is not of the form data:TYPE;base64,DATA")
    encoded = payload.split(",") if (kind, mime) == ("video", FRAME_LIST) else [payload]
    return EncodedMedia(tuple(_decode_base64(part, kind) for part in encoded), mime or None)


def _decode_base64(text: str, kind: MediaKind) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise invalid_media(f"the {kind} is not valid base64: standard alphabet, padded, without white space") from None
    if not data:
        raise invalid_media(f"the {kind} is empty")
    return data


def invalid_media(message: str) -> InvalidRequest:
    """What cannot be decoded or has no sensible content. Never put a decoder's own text into the message."""
    return InvalidRequest(message, code="invalid_media")


def media_too_large(message: str) -> InvalidRequest:
    """What could be decoded but is refused for its size."""
    return InvalidRequest(message, code="media_too_large")


def undecodable(kind: MediaKind) -> InvalidRequest:
    """The one message for every failure inside a decoder, whose own text could hold addresses or content."""
    return invalid_media(f"the {kind} could not be decoded; send it whole, as {ACCEPTED[kind]}")


def ends_decoders(kind: MediaKind) -> InvalidRequest:
    """Two processes in a row came to their end over it."""
    return invalid_media(f"the {kind} could not be decoded: it ended the process that tried, and the next one, too")
