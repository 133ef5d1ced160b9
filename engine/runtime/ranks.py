"""Tensor-parallel ranks on one host: one process each, told what to run over inherited Unix sockets.

Rank 0 lives in the engine process, schedules, and sends every step to the others before it runs it itself; they
run the same step on their share of the weights and meet in the collectives. A rank that dies takes the engine with
it, since the others would wait for it for ever.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import msgspec
import torch
import torch.distributed as dist

from engine.config import EngineConfig
from engine.core.request import Step, StepResult
from engine.environment import without_secrets
from engine.errors import RANK_DIED, EngineError
from engine.ipc import FrameSplitter, frame
from engine.parallel import TensorParallel
from engine.runtime.build import LoadedEngine, load_engine
from engine.runtime.model_runner import Launched, LocalRunner

log = logging.getLogger(__name__)

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # a rank may have a hundred gigabytes to read first
_RECEIVE_BYTES = 1 << 18
_EXIT_GRACE_S = 2.0  # for a rank to end by itself: one that waits for its next step does so at once

_step_encoder = msgspec.msgpack.Encoder()
_step_decoder = msgspec.msgpack.Decoder(Step)


class StartRank(msgspec.Struct, frozen=True):
    """First frame to a rank: which share to load and where to meet the others."""

    config: EngineConfig
    rank: int
    store: str


class RankGroup:
    """The other ranks' processes, seen from rank 0."""

    def __init__(self, config: EngineConfig, report: Callable[[str], None]) -> None:
        """`report` takes, in a thread, what keeps a rank from starting; this process ends when it comes back."""
        self._report = report
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._folder = tempfile.mkdtemp(prefix="ming-ranks-")  # mode 0700
        atexit.register(self._remove_folder)
        self.store = str(Path(self._folder) / "store")
        for rank in range(1, config.tp):
            self._spawn(StartRank(config, rank, self.store))

    def _spawn(self, start: StartRank) -> None:
        mine, theirs = socket.socketpair()
        command = [sys.executable, "-m", "engine.runtime.ranks", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=without_secrets(os.environ))
        theirs.close()
        self._sockets.append(mine)
        mine.sendall(frame(msgspec.msgpack.encode(start)))
        threading.Thread(target=self._watch, args=(process, start.rank), daemon=True).start()
        threading.Thread(target=self._listen, args=(mine, start.rank), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes], rank: int) -> None:
        code = process.wait()
        if not self._closing:
            log.critical("tensor-parallel rank %d ended with code %d; the engine cannot go on", rank, code)
            self._end()

    def _listen(self, sock: socket.socket, rank: int) -> None:
        """A rank says one thing at most: why it cannot start."""
        with suppress(OSError):  # it is gone, which `_watch` tells
            for reason in _frames(sock):
                try:
                    self._report(f"rank {rank}: {reason.decode()}")
                finally:
                    self._end()

    def _end(self) -> NoReturn:
        """The main thread may be inside a collective that will never end, so nothing gentler works."""
        self._remove_folder()
        os._exit(RANK_DIED)

    def _remove_folder(self) -> None:
        _remove(self._folder)

    def send(self, step: Step) -> None:
        """Hand a step to every other rank."""
        data = frame(_step_encoder.encode(step))
        for sock in self._sockets:
            sock.sendall(data)

    def close(self) -> None:
        """Let the ranks go."""
        self._closing = True
        for sock in self._sockets:
            sock.shutdown(socket.SHUT_RDWR)  # a thread waits for it, and would keep it open
            sock.close()
        self._remove_folder()


class RankedRunner:
    """The scheduler's `Runner` over all ranks; results are rank 0's, which every rank computes alike."""

    def __init__(self, group: RankGroup, local: LocalRunner) -> None:
        self._group = group
        self._local = local

    def submit(self, step: Step) -> None:
        """Start a step everywhere."""
        self._group.send(step)
        self._local.submit(step)

    def collect(self) -> StepResult:
        """Wait for the oldest step."""
        return self._local.collect()


def join(config: EngineConfig, rank: int, store: str) -> LoadedEngine:
    """Meet the other ranks, then load this rank's share."""
    if sys.platform == "linux":
        # Without this gloo binds to whatever address the host name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=config.tp,
        timeout=RENDEZVOUS_TIMEOUT,
    )
    return load_engine(config, TensorParallel(rank, config.tp))


def _remove(folder: str) -> None:
    """Remove the folder in which the ranks meet. Every rank that comes to its end does, since others may be killed."""
    shutil.rmtree(folder, ignore_errors=True)


def _frames(sock: socket.socket) -> Iterator[bytes]:
    splitter = FrameSplitter()
    while data := sock.recv(_RECEIVE_BYTES):
        yield from splitter.feed(data)


def _leave_with_rank_0(sock: socket.socket, folder: str) -> None:
    """Thread: end this process soon after rank 0, whatever the main thread does.

    It may never come back to read the end of the socket: from a kernel that waits for rank 0, say.
    """
    poll = select.poll()
    # Nothing but the other end's going away: what it sends is the main thread's. Linux tells of it whatever is asked
    # for; other systems must be asked, and may come back without an answer when there is something to read.
    poll.register(sock, select.POLLHUP)
    while not poll.poll():
        time.sleep(_EXIT_GRACE_S)
    time.sleep(_EXIT_GRACE_S)
    log.critical("rank 0 is gone; this rank ends in the middle of what it does")
    _remove(folder)
    os._exit(RANK_DIED)


def _give_up(sock: socket.socket, frames: Iterator[bytes], error: EngineError) -> NoReturn:
    """Tell rank 0 why this rank cannot start, and stay until it hangs up.

    Its main thread may wait for this rank, and would otherwise find it gone before it knows why.
    """
    with suppress(OSError):  # rank 0 is gone: it may have the same to say
        sock.sendall(frame(str(error).encode()))
        deque(frames, maxlen=0)
    os._exit(2)


def main(fd: int) -> None:
    """One rank's life: load, then run steps until rank 0 hangs up."""
    with socket.socket(fileno=fd) as sock:
        frames = _frames(sock)
        start = msgspec.msgpack.decode(next(frames), type=StartRank)
        folder = str(Path(start.store).parent)
        threading.Thread(target=_leave_with_rank_0, args=(sock, folder), daemon=True).start()
        logging.basicConfig(level=logging.INFO, format=f"%(levelname)s rank {start.rank} %(name)s: %(message)s")
        try:
            runner = join(start.config, start.rank, start.store).runner
        except EngineError as error:
            _give_up(sock, frames, error)
        under_way: deque[Launched] = deque()
        for body in frames:
            # Rank 0 has read the tokens of all but one earlier step when it submits another, and so must this rank.
            while len(under_way) > 1:
                runner.finish(under_way.popleft())
            under_way.append(runner.launch(_step_decoder.decode(body)))
    _remove(folder)
    os._exit(0)  # torch's process group would wait for ranks that are gone


if __name__ == "__main__":
    main(int(sys.argv[1]))
