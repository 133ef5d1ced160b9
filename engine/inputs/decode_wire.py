"""What a decode worker and its parent say to each other: msgpack frames with their length in front, over a socket."""

from __future__ import annotations

import socket
import struct

import msgspec

from engine.core.request import MediaKind
from engine.inputs.media import EncodedMedia, Preprocessed
from engine.inputs.processor_config import MediaConfig

MAX_FRAME_BYTES = 1 << 28  # above the largest result: 16 million pixels, three channels, two frames
_LENGTH = struct.Struct("<Q")


class Setup(msgspec.Struct):
    """The first frame to a worker; `memory_bytes` is what it may take beyond what it needs to start."""

    config: MediaConfig
    memory_bytes: int
    time_limit_s: float


class Job(msgspec.Struct):
    """A file to preprocess; with `clip_hz` a reference clip for the talker, to be had as samples at that rate."""

    kind: MediaKind
    media: EncodedMedia
    clip_hz: int | None = None


class Reply(msgspec.Struct):
    """Answer to the set-up (empty when the worker is ready) and to each job (a result, or a refusal and its code)."""

    result: Preprocessed | None = None
    message: str = ""
    code: str = ""


def send_frame(sock: socket.socket, message: msgspec.Struct) -> None:
    """Blocks until everything is on its way."""
    payload = msgspec.msgpack.encode(message)
    sock.sendall(_LENGTH.pack(len(payload)))
    sock.sendall(payload)


def receive_frame(sock: socket.socket) -> bytearray | None:
    """The next frame; None when the other side is gone, or announces a frame that it cannot mean."""
    head = _receive_exactly(sock, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    return _receive_exactly(sock, length) if length <= MAX_FRAME_BYTES else None


def _receive_exactly(sock: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        received = sock.recv_into(view)
        if not received:
            return None
        view = view[received:]
    return data
