"""Running the towers on media of waiting requests, and keeping their features until they are prefilled."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.config import AudioBatching
from engine.core.request import GenerationRequest, MediaInput
from engine.inputs.pixels import pixel_table
from engine.inputs.processor_config import ImageProcessorConfig
from engine.models.thinker import Ming

log = logging.getLogger(__name__)

WAIT_S = 0.005

Key = tuple[int, int]  # request id, index into its media


class FeatureCache:
    """Features by content digest, the least recently used dropped above `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes) -> Tensor | None:
        """Features of this content, if they are still here."""
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def put(self, key: bytes, features: Tensor) -> None:
        """Remember features; content larger than the whole cache is not kept."""
        if features.nbytes > self._max_bytes or key in self._items:
            return
        self._items[key] = features
        self._bytes += features.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._items.popitem(last=False)
            self._bytes -= oldest.nbytes


@dataclass(frozen=True, slots=True)
class _Item:
    """A medium to encode, and the clips of its request (itself among them) if they are to be padded together."""

    media: MediaInput
    padded_with: tuple[MediaInput, ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """Media being encoded, equal content once, and who waits for each."""

    future: Future[list[Tensor]]
    waiting: dict[bytes, list[Key]]


class EncoderRunner:
    """Encodes in the order asked; features live until their request is dropped.

    On the CPU the towers run in a thread of their own, so that decode steps go on meanwhile; on a GPU they
    are queued on the device like everything else.
    """

    def __init__(
        self,
        model: Ming,
        device: torch.device,
        pixels: ImageProcessorConfig,
        audio_batching: AudioBatching = "alone",
        cache_bytes: int = 1 << 28,
    ) -> None:
        self._model = model
        self._pads_audio = audio_batching == "padded"
        self._pixel_table = torch.tensor(pixel_table(pixels), device=device)  # [3, 256]
        self._device = device
        self._cache = FeatureCache(cache_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder") if device.type == "cpu" else None
        self._media: dict[Key, MediaInput] = {}
        self._features: dict[Key, Tensor] = {}
        self._jobs: list[_Job] = []
        self._done: list[Key] = []
        self._failed: list[tuple[int, str]] = []

    def add(self, request: GenerationRequest) -> None:
        """Know the media of a new request."""
        self._media.update({(request.id, i): media for i, media in enumerate(request.media)})

    def drop(self, request_id: int) -> None:
        """Forget a request's media and features."""
        for key in [key for key in self._media if key[0] == request_id]:
            del self._media[key]
            self._features.pop(key, None)

    def start(self, keys: Sequence[Key]) -> None:
        """Encode these media; equal content is encoded once."""
        fresh: dict[bytes, list[Key]] = {}
        for key in keys:
            content = _content_key(self._media[key])
            cached = self._cache.get(content)
            if cached is None:
                fresh.setdefault(content, []).append(key)
            else:
                self._finish([key], cached)
        if fresh:
            items = [self._item(same[0]) for same in fresh.values()]
            self._jobs.append(_Job(self._submit(items), fresh))

    def collect(self, *, wait: bool) -> tuple[tuple[Key, ...], tuple[tuple[int, str], ...]]:
        """Media that became ready since the last call, and requests whose media failed.

        With `wait` it waits a moment for the job under way: there is nothing else to run now, but requests and aborts
        may arrive at any time, so the caller asks again.
        """
        if wait and not self._done and self._jobs:
            futures.wait([self._jobs[0].future], timeout=WAIT_S)
        while self._jobs and self._jobs[0].future.done():
            self._close(self._jobs.pop(0))
        done, self._done = tuple(self._done), []
        failed, self._failed = tuple(self._failed), []
        return done, failed

    def features(self, request_id: int, index: int) -> Tensor:
        """Features [n, D] of a medium that rank 0 reported as encoded; another rank may have to wait for its own."""
        while (request_id, index) not in self._features:
            self._close(self._jobs.pop(0))
        return self._features[request_id, index]

    def _item(self, key: Key) -> _Item:
        media = self._media[key]
        if media.kind != "audio" or not self._pads_audio:
            return _Item(media)
        clips = [m for (request_id, _), m in self._media.items() if request_id == key[0] and m.kind == "audio"]
        return _Item(media, tuple(clips))

    def _submit(self, items: Sequence[_Item]) -> Future[list[Tensor]]:
        if self._thread is not None:
            return self._thread.submit(self._encode, items)
        future: Future[list[Tensor]] = Future()
        future.set_result(self._encode(items))
        return future

    def _close(self, job: _Job) -> None:
        try:
            encoded = job.future.result()
        except (ValueError, torch.OutOfMemoryError) as error:
            log.warning("media could not be encoded: %s", error)
            self._failed += [
                (key[0], "the media could not be encoded") for same in job.waiting.values() for key in same
            ]
            return
        for (content, same), features in zip(job.waiting.items(), encoded, strict=True):
            self._cache.put(content, features)
            self._finish(same, features)

    @torch.inference_mode()
    def _encode(self, items: Sequence[_Item]) -> list[Tensor]:
        """Features of each item; pixels share one packed call, and so do clips of equal length."""
        pixels = [item.media for item in items if item.media.grid is not None]
        clips = [item.media for item in items if item.media.grid is None and not item.padded_with]
        features: dict[int, Tensor] = {}
        if pixels:
            grids = [media.grid for media in pixels if media.grid is not None]
            encoded = self._model.encode_pixels([self._load(media) for media in pixels], grids)
            features.update(zip(map(id, pixels), encoded, strict=True))
        if clips:
            encoded = self._model.encode_audio([self._load(media) for media in clips])
            features.update(zip(map(id, clips), encoded, strict=True))
        for item in items:
            if item.padded_with:
                together = self._model.encode_audio_padded([self._load(clip) for clip in item.padded_with])
                features[id(item.media)] = together[item.padded_with.index(item.media)]
        return [features[id(item.media)] for item in items]

    def _finish(self, keys: Sequence[Key], features: Tensor) -> None:
        for key in keys:
            if key in self._media:  # its request may have been dropped meanwhile
                self._features[key] = features
                self._done.append(key)

    def _load(self, media: MediaInput) -> Tensor:
        """The preprocessed array on the device; 8-bit patches [P, M] become normalised float32 values."""
        array = torch.from_numpy(np.frombuffer(media.data, dtype=media.dtype).reshape(media.shape).copy())
        values = array.to(self._device)
        if values.dtype != torch.uint8:
            return values
        channel = torch.arange(3, device=self._device).repeat_interleave(values.shape[1] // 3)
        return self._pixel_table[channel, values.long()]


def _content_key(media: MediaInput) -> bytes:
    """The same bytes can be pixels of one request and sound of another."""
    return media.kind.encode() + media.digest
