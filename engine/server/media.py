"""Media of a request: from the URLs in its messages to encoder inputs at their place in the prompt."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.config import AudioBatching
from engine.core.request import MediaInput, MediaKind
from engine.errors import ConfigError, InvalidRequest
from engine.inputs.chat import MediaTokens, Prompt
from engine.inputs.fetch import MediaFetcher
from engine.inputs.media import EncodedMedia, Preprocessed
from engine.inputs.media_pool import MediaPool, NoWorkerError
from engine.inputs.messages import MediaPart
from engine.server.errors import ApiError, unavailable
from engine.server.jsonbody import refused

log = logging.getLogger(__name__)

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
    """Fetches, decodes and preprocesses media; the decoding processes start with the first medium.

    `fetches` counts what became of URLs that are not data: URLs, by outcome.
    """

    def __init__(self, fetcher: MediaFetcher, pool: MediaPool, fetches: Counter[str]) -> None:
        self._fetcher = fetcher
        self._fetches = fetches
        self._pool = pool
        self._start: asyncio.Task[None] | None = None

    async def load(self, parts: Sequence[MediaPart], hold: Callable[[int], None]) -> list[Preprocessed]:
        """All parts of one request, in order; `hold` is told of their bytes, fetched and decoded.

        Raises:
            Overloaded: `hold` refuses more.
            InvalidRequest: a part cannot be had or decoded; the others are abandoned.
            ApiError: there is no process to decode it.
        """
        await self._ensure_started()
        tasks = [asyncio.create_task(self._load(part, hold)) for part in parts]
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
        start = self._start
        try:
            await asyncio.shield(start)  # one client that leaves must not stop it for the others
        except ConfigError as error:
            if self._start is start:
                self._start = None  # what kept the workers from starting may have passed by the next request
            if isinstance(error, NoWorkerError):
                raise _no_worker(error) from None
            raise refused("messages", f"media input is not available on this server: {error}") from None

    async def _load(self, part: MediaPart, hold: Callable[[int], None]) -> Preprocessed:
        try:
            media = await self._fetch(part)
            hold(sum(map(len, media.parts)))
            decoded = await self._pool.preprocess(part.kind, media.parts, media.mime, part.clip_hz)
            hold(sum(len(array.data) for array in decoded.arrays))
            return decoded
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=part.where, code=error.code, status=error.status) from None
        except NoWorkerError as error:
            raise _no_worker(error) from None

    async def _fetch(self, part: MediaPart) -> EncodedMedia:
        outcome = "cancelled"
        try:
            media = await self._fetcher.load(part.kind, part.url)
            outcome = "ok"
        except InvalidRequest as error:
            outcome = error.code
            raise
        finally:
            if part.url[:5].lower() != "data:":
                self._fetches[outcome] += 1
        return media


def _no_worker(error: NoWorkerError) -> ApiError:
    """Nothing is wrong with the request; why is for the log."""
    log.error("%s", error)
    return unavailable("media_failed")


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
