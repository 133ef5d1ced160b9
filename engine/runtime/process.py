"""The engine process: takes commands from the server over an inherited socket and runs the loop.

Started by the server as `python -m engine.runtime.process --fd N`. It lives as long as the server: when the socket
closes it ends, whatever it is doing.
"""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from engine.child import Inbox, Prepared, inherited_socket, leave, run_child
from engine.config import EngineConfig, EngineInfo
from engine.core.loop import EngineLoop
from engine.core.request import GenerationRequest
from engine.errors import ConfigError, WeightError, WorkerDied
from engine.ipc import Abort, Channel, Command, Failed, Ready, Report, Start, Submit

# Loads the engine; the second argument takes, from any thread, why it fails, where this process has to end at once.
Build = Callable[[EngineConfig, Callable[[str], None]], tuple[EngineLoop, EngineInfo]]


class EngineProcess:
    """Runs an engine loop on commands from `inbox`; outputs and figures go out through `channel` after each step."""

    def __init__(self, loop: EngineLoop, channel: Channel, inbox: Inbox) -> None:
        """`inbox` gets commands of the server, and word of requests that are prepared."""
        self._loop = loop
        self._channel = channel
        self._inbox = inbox
        self._num_received = 0
        self._preparing: dict[int, GenerationRequest] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    def run(self) -> int:
        """Work until the server goes away; returns the exit code."""
        while self._take_commands():
            try:
                outputs = self._loop.run_once()
            except WorkerDied as error:
                self._channel.send(Failed(str(error)))  # ends every open request at the other end
                return 1
            self._channel.send(Report(outputs, self._loop.stats(), self._num_received))
        return 0

    def _take_commands(self) -> bool:
        """Pass on what has arrived, waiting for it only when there is nothing to run. False: the server is gone."""
        while True:
            try:
                command = self._inbox.get(block=not self._loop.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            if isinstance(command, Prepared):
                self._submit_prepared(command.request_id)
            else:
                self._pass_on(command)

    def _pass_on(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._num_received += len(command.requests)
            for request in command.requests:
                self._submit(request)
        elif isinstance(command, Abort):
            for request_id in command.request_ids:
                if self._preparing.pop(request_id, None) is None:
                    self._loop.abort(request_id)

    def _submit(self, request: GenerationRequest) -> None:
        """Give a request to the loop, now or when the slow part of it is done in another thread."""
        work = None if self._loop.prepare is None else self._loop.prepare(request)
        if work is None:
            self._loop.submit(request)
            return
        self._preparing[request.id] = request
        done = Prepared(request.id)
        self._threads.submit(work).add_done_callback(lambda _: self._inbox.put(done))

    def _submit_prepared(self, request_id: int) -> None:
        request = self._preparing.pop(request_id, None)
        if request is not None:  # it may have been aborted meanwhile
            self._loop.submit(request)


def serve(sock: socket.socket, build: Build) -> int:
    """Be the engine of the server at the other end of `sock`; returns the exit code."""
    return run_child(sock, lambda channel, inbox: _serve(channel, inbox, build))


def _serve(channel: Channel, inbox: Inbox, build: Build) -> int:
    start = inbox.get()
    if not isinstance(start, Start):
        return 0  # the server went away before it said anything
    try:
        loop, info = build(start.config, lambda reason: channel.send(Failed(reason)))
    except (ConfigError, WeightError, WorkerDied) as error:
        channel.send(Failed(str(error)))
        return 1
    channel.send(Ready(info))
    return EngineProcess(loop, channel, inbox).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the process; `--fd` is the inherited socket."""
    return serve(inherited_socket("engine.runtime.process", "engine", argv), _build)


def _build(config: EngineConfig, tell: Callable[[str], None]) -> tuple[EngineLoop, EngineInfo]:
    # Imported late: torch takes seconds, and a server that is gone by then must be noticed.
    from engine.runtime.start import build_engine

    return build_engine(config, tell)


if __name__ == "__main__":
    leave(main())
