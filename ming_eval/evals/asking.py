"""A sample -> the request that is sent for it, and the key under which its answer is kept."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ming_eval.evals.digest import digest, digest_bytes
from ming_eval.evals.item import Item, Kind, MediaRef
from ming_eval.evals.plan import Plan, Sample
from ming_eval.evals.prompt import turns
from ming_eval.evals.subtitles import subtitle_block
from ming_eval.evals.suite import Protocol
from ming_eval.evals.video import duration_s, frames_at, slice_centres
from ming_eval.types import Media, Message, Request, Task, Text

_MIMES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp4": "video/mp4", ".mkv": "video/x-matroska"}
_DEFAULT_MIMES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}
_LETTER_OF_MEDIA = {"image": "I", "audio": "A", "video": "V"}


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers: the model asked for and an identity that does not change while the answers stay the same.

    `identity` is the server's address, or the checkpoint's digest of an engine that the run starts itself.
    """

    model: str | None
    identity: str


@dataclass(frozen=True, slots=True)
class Attachments:
    """What belongs to a question besides its text, read from files."""

    media: tuple[Media, ...] = ()
    subtitles: str | None = None


def read_attachments(plan: Plan, sample: Sample) -> Attachments:
    """The sample's files as far as the protocol sends them.

    Raises:
        OSError: a file cannot be read.
        DataError: a video cannot be decoded, where frames or subtitles are sampled from it.
        UsageError: the package that decodes videos is not installed.
    """
    protocol, refs = plan.protocol, sample.item.media
    media = [part for ref in refs for part in _parts(protocol, ref)] if protocol.media else []
    return Attachments(tuple(media), _subtitles(protocol, sample.item))


def build_request(plan: Plan, sample: Sample, attached: Attachments) -> Request:
    """The request for a sample."""
    protocol = plan.protocol
    messages = turns(
        protocol,
        sample.item,
        examples=plan.examples_for(sample.item),
        subtitles=attached.subtitles,
        media=attached.media,
    )
    return Request(
        id=f"{plan.name}/{sample.item.id}#{sample.repeat}.{sample.rotation}",
        messages=messages,
        task=_task(plan, sample, attached.media),
        max_tokens=protocol.max_tokens,
        temperature=protocol.temperature,
        seed=plan.options.seed + sample.repeat,
        stream=False,
        extra=_extra(plan, sample, attached.media),
    )


def response_key(plan: Plan, sample: Sample, request: Request, server: Server) -> str:
    """A digest of everything that decides an answer; two models or servers never share one."""
    return digest(
        plan.suite.name,
        plan.suite.suite.version,
        plan.options.method,
        sample.key,
        [_rendered(message) for message in request.messages],
        [request.task, request.max_tokens, request.temperature, request.seed, dict(request.extra)],
        server.model,
        server.identity,
    )


def _task(plan: Plan, sample: Sample, media: Sequence[Media]) -> Task:
    kinds = {each.kind for each in media}
    source = next((_LETTER_OF_MEDIA[kind] for kind in ("video", "audio", "image") if kind in kinds), "T")
    is_speech = (sample.item.kind or plan.suite.kind) is Kind.SPEECH
    return Task(f"{source}2{'S' if is_speech else 'T'}")


def _extra(plan: Plan, sample: Sample, media: Sequence[Media]) -> Mapping[str, Any]:
    """The protocol's own fields; with a voice to speak with, its words."""
    words = [ref.text for ref in sample.item.media if ref.text is not None]
    is_speech = (sample.item.kind or plan.suite.kind) is Kind.SPEECH
    return {**plan.protocol.extra, "ref_text": words[0]} if is_speech and media and words else plan.protocol.extra


def _rendered(message: Message) -> list[object]:
    """A turn with files by the digest of their content."""
    parts: list[object] = [
        part.text if isinstance(part, Text) else [part.kind, part.mime, digest_bytes(part.data)]
        for part in message.parts
    ]
    return [message.role, *parts]


def _parts(protocol: Protocol, ref: MediaRef) -> tuple[Media, ...]:
    if ref.type == "video" and protocol.as_frames:
        return frames_at(Path(ref.path), _times_s(protocol, ref), protocol.frame_height)
    return (Media(ref.type, _bytes(ref), _mime(ref)),)


def _subtitles(protocol: Protocol, item: Item) -> str | None:
    """The subtitle block; None where the protocol has none or the item no file."""
    if protocol.subtitles is None or item.subtitles is None or not Path(item.subtitles).exists():
        return None
    video = next((ref for ref in item.media if ref.type == "video"), None)
    times_s = _times_s(protocol, video) if protocol.subtitles == "sampled" and video is not None else None
    return subtitle_block(Path(item.subtitles), times_s)


def _times_s(protocol: Protocol, ref: MediaRef) -> list[float]:
    assert protocol.frames is not None, "a protocol that samples has a number of frames"
    return slice_centres(protocol.frames, duration_s(Path(ref.path)))


def _bytes(ref: MediaRef) -> bytes:
    return ref.data if ref.data is not None else Path(ref.path).read_bytes()


def _mime(ref: MediaRef) -> str:
    suffix = Path(ref.path).suffix.lower()
    return _MIMES.get(suffix) or mimetypes.guess_type(ref.path)[0] or _DEFAULT_MIMES[ref.type]
