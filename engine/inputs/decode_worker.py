"""The process that touches untrusted media: `python -m engine.inputs.decode_worker`, started by `MediaPool`.

Its only connection is the socket that it gets as standard input. Before the first job it gives up making others, and
taking more than its share of memory. Whatever goes wrong beyond a refusal ends the process, and the pool starts another
one.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.errors import ConfigError, InvalidRequest
from engine.inputs.decode_wire import Job, Reply, Setup, receive_frame, send_frame
from engine.inputs.media import Preprocessed

_GRACE_S = 5  # the pool's clock is the one that counts; this one is for a worker that lost its pool


def main() -> None:
    """Serve jobs until the other side closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool decides
    sock = socket.socket(fileno=0)
    frame = receive_frame(sock)
    if frame is None:
        return
    setup = msgspec.msgpack.decode(frame, type=Setup)
    try:
        from engine.inputs.preprocess import preprocess, reference_clip
    except ConfigError as error:  # a decoder is not installed
        send_frame(sock, Reply(message=str(error)))
        return
    _silence_libraries()
    confine(setup.memory_bytes)
    send_frame(sock, Reply())

    def run(job: Job) -> Preprocessed:
        if job.clip_hz is not None:
            return reference_clip(job.media, job.clip_hz)
        return preprocess(job.kind, job.media, setup.config)

    _serve(sock, setup, run)


def _serve(sock: socket.socket, setup: Setup, run: Callable[[Job], Preprocessed]) -> None:
    while (frame := receive_frame(sock)) is not None:
        signal.alarm(math.ceil(setup.time_limit_s) + _GRACE_S)
        job = msgspec.msgpack.decode(frame, type=Job)
        try:
            reply = Reply(run(job))
        except InvalidRequest as error:
            reply = Reply(message=error.message, code=error.code)
        send_frame(sock, reply)
        signal.alarm(0)


def _silence_libraries() -> None:
    """Decoders write what they think of a file to descriptor 2; Python's own errors keep going to the log."""
    import av
    import cv2

    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)


def confine(memory_bytes: int) -> None:
    """From here on this process makes no connection, and its address space grows by `memory_bytes` at most.

    FFmpeg, the only decoder that knows the network, is kept from it where files are opened.
    """
    sys.addaudithook(_refuse_network)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold somebody's media
    if sys.platform == "linux":  # macOS does not enforce it
        limit = _address_space_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _refuse_network(event: str, _args: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise PermissionError(f"{event} in a decode worker")


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
