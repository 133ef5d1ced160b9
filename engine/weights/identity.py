"""Which checkpoint this is: a digest by which answers are recognised as those of the same weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_SMALL_FILES = frozenset({".json", ".jinja", ".txt", ".model"})  # configuration, tokenizer, templates: read whole
_BLOCK_BYTES = 4096
_NUM_BLOCKS = 256


def checkpoint_digest(folder: Path) -> str:
    """16 hexadecimal digits over everything below `folder` that can move an answer.

    Small files count with their bytes. Weights are sampled, for hundreds of gigabytes are not read to name them: of
    each file its size, and 256 blocks of 4 KiB at even distances, the first with its header and the last one included.
    Training moves every tensor, so that it does not go unseen; a change of a few bytes by hand may.
    """
    hasher = hashlib.sha256()
    for path in sorted(_files(folder)):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
        for piece in _pieces(path):
            hasher.update(piece)
    return hasher.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    """Files of a snapshot and of the parts below it; hidden folders hold a downloader's notes."""
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.suffix in _SMALL_FILES | {".safetensors"} and path.is_file():
            yield path


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix in _SMALL_FILES or size <= _NUM_BLOCKS * _BLOCK_BYTES:
            yield file.read()
            return
        last = size - _BLOCK_BYTES
        for index in range(_NUM_BLOCKS):
            yield os.pread(file.fileno(), _BLOCK_BYTES, last * index // (_NUM_BLOCKS - 1))
