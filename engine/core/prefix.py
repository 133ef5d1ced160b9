"""Names of KV blocks by content, so that equal beginnings of different requests can share them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from engine.core.request import GenerationRequest, MediaInput

_KEY_BYTES = 32
_ROOT = bytes(_KEY_BYTES)


class PrefixKeys:
    """Keys of one request's full blocks, made on first use.

    The key of a block is a digest over the key before it, its token ids and the media whose placeholders
    it touches. So it stands for everything from position 0 to the end of the block: a KV entry depends on
    all of that, and on nothing else.
    """

    def __init__(self, request: GenerationRequest, block_size: int) -> None:
        self._prompt = request.prompt_ids
        self._media = sorted(request.media, key=lambda item: item.start)
        self._num_passed = 0  # media that end in front of the next block
        self._block_size = block_size
        self._pack_tokens = struct.Struct(f"<{block_size}q").pack
        self._keys: list[bytes] = []

    def get(self, index: int, generated: Sequence[int]) -> bytes:
        """Key of block `index`; every token of it must be in the prompt or in `generated`."""
        while len(self._keys) <= index:
            self._keys.append(self._next_key(generated))
        return self._keys[index]

    def first(self, num_blocks: int, generated: Sequence[int]) -> Iterator[bytes]:
        """Keys of the first `num_blocks` blocks; those that are not asked for are not computed."""
        for index in range(num_blocks):
            yield self.get(index, generated)

    def _next_key(self, generated: Sequence[int]) -> bytes:
        start = len(self._keys) * self._block_size
        digest = blake2b(self._keys[-1] if self._keys else _ROOT, digest_size=_KEY_BYTES)
        digest.update(self._pack_tokens(*self._tokens(start, generated)))
        for item in self._touching(start):
            digest.update(_describe(item, start))
        return digest.digest()

    def _tokens(self, start: int, generated: Sequence[int]) -> Sequence[int]:
        end = start + self._block_size
        num_prompt = len(self._prompt)
        if end <= num_prompt:
            return self._prompt[start:end]
        return (*self._prompt[start:], *generated[max(start - num_prompt, 0) : end - num_prompt])

    def _touching(self, start: int) -> Iterator[MediaInput]:
        media = self._media
        while self._num_passed < len(media) and _end(media[self._num_passed]) <= start:
            self._num_passed += 1
        for item in media[self._num_passed :]:
            if item.start >= start + self._block_size:
                break
            yield item


def _end(item: MediaInput) -> int:
    return item.start + item.num_tokens


def _describe(item: MediaInput, block_start: int) -> bytes:
    """What of a medium reaches the KV cache: content, placement and, through the positions, its grid."""
    placement = (item.kind, item.start - block_start, item.num_tokens, item.grid, len(item.digest))
    return repr(placement).encode() + item.digest
