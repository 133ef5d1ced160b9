"""Media of a request: from the URLs in its messages to encoder inputs at their place in the prompt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.config import AudioBatching
from engine.core.request import MediaInput, MediaKind
from engine.errors import ConfigError, InvalidRequest
from engine.inputs.chat import MediaTokens, Prompt
from engine.inputs.fetch import MediaFetcher
from engine.inputs.media import Preprocessed
from engine.inputs.media_pool import MediaPool
from engine.inputs.messages import MediaPart
from engine.server.jsonbody import refused

DEFAULT_LIMITS: Mapping[MediaKind, int] = {"image": 16, "audio": 4, "video": 2}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NeedsMedia(Generic[T]):
    """A request that was checked as far as possible before its media is decoded.

    `finish` takes the decoded parts in order and is slow enough for a thread.
    """

    parts: tuple[MediaPart, ...]
    finish: Callable[[Sequence[Preprocessed]], T]


class MediaLoader:
    """Fetches, decodes and preprocesses media; the decoding processes start with the first medium."""

    def __init__(self, fetcher: MediaFetcher, pool: MediaPool) -> None:
        self._fetcher = fetcher
        self._pool = pool
        self._start: asyncio.Task[None] | None = None

    async def load(self, parts: Sequence[MediaPart]) -> list[Preprocessed]:
        """All parts of one request, in order.

        Raises:
            InvalidRequest: a part cannot be had or decoded; the others are abandoned.
        """
        await self._ensure_started()
        tasks = [asyncio.create_task(self._load(part)) for part in parts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Stop the decoding processes."""
        if self._start is not None:
            await self._pool.close()

    async def _ensure_started(self) -> None:
        if self._start is None:
            self._start = asyncio.create_task(self._pool.start())
        try:
            await asyncio.shield(self._start)  # one client that leaves must not stop it for the others
        except ConfigError as error:
            raise refused("messages", f"media input is not available on this server: {error}") from None

    async def _load(self, part: MediaPart) -> Preprocessed:
        try:
            media = await self._fetcher.load(part.kind, part.url)
            return await self._pool.preprocess(part.kind, media.parts, media.mime, part.clip_hz)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=part.where, code=error.code, status=error.status) from None


def check_parts(parts: Sequence[MediaPart], modalities: Sequence[str], limits: Mapping[MediaKind, int]) -> None:
    """Refuse media that the model cannot take, or too many of a kind, before anything is decoded.

    Raises:
        InvalidRequest: naming the kind.
    """
    for kind, limit in limits.items():
        count = sum(part.kind == kind for part in parts)
        if count and kind not in modalities:
            raise refused("messages", f"{kind} input is not available: the served checkpoint has no tower for it")
        if count > limit:
            message = f"a request takes at most {limit} {kind} parts, got {count}"
            raise InvalidRequest(message, param="messages", code="media_too_large")


def media_tokens(media: Sequence[Preprocessed]) -> list[MediaTokens]:
    """What the prompt builder must know of each part."""
    return [
        MediaTokens(
            tuple(array.num_tokens for array in item.arrays),
            tuple(array.timestamp_s for array in item.arrays if array.timestamp_s is not None),
        )
        for item in media
    ]


def media_inputs(prompt: Prompt, media: Sequence[Preprocessed], batching: AudioBatching) -> tuple[MediaInput, ...]:
    """The encoder inputs, each with the placeholders that it fills."""
    clips = b"".join(array.digest for item in media if item.kind == "audio" for array in item.arrays)
    inputs = []
    for slot in prompt.slots:
        array = media[slot.index].arrays[slot.frame]
        digest = array.digest
        if slot.kind == "audio" and batching == "padded":
            # Padded together, a clip's features depend on its neighbours, and so must every cache key made of it.
            digest = hashlib.sha256(clips + digest + slot.index.to_bytes(4, "big")).digest()
        inputs.append(
            MediaInput(
                kind=slot.kind,
                start=slot.start,
                num_tokens=slot.num_tokens,
                grid=array.grid,
                digest=digest,
                shape=array.shape,
                dtype=array.dtype,
                data=array.data,
            )
        )
    return tuple(inputs)
