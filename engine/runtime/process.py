"""The engine process: takes commands from the server over an inherited socket and runs the loop.

Started by the server as `python -m engine.runtime.process --fd N`. It lives as long as the server: when the socket
closes it ends, whatever it is doing.
"""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Sequence

from engine.child import Inbox, inherited_socket, leave, run_child
from engine.config import EngineConfig, EngineInfo
from engine.core.loop import EngineLoop
from engine.errors import ConfigError, WeightError, WorkerDied
from engine.ipc import Abort, Channel, Command, Failed, Ready, Report, Start, Submit

Build = Callable[[EngineConfig], tuple[EngineLoop, EngineInfo]]


class EngineProcess:
    """Runs an engine loop on commands from `inbox`; outputs and figures go out through `channel` after each step."""

    def __init__(self, loop: EngineLoop, channel: Channel, inbox: Inbox) -> None:
        self._loop = loop
        self._channel = channel
        self._inbox = inbox
        self._num_received = 0

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
            self._pass_on(command)

    def _pass_on(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._num_received += len(command.requests)
            for request in command.requests:
                self._loop.submit(request)
        elif isinstance(command, Abort):
            for request_id in command.request_ids:
                self._loop.abort(request_id)


def serve(sock: socket.socket, build: Build) -> int:
    """Be the engine of the server at the other end of `sock`; returns the exit code."""
    return run_child(sock, lambda channel, inbox: _serve(channel, inbox, build))


def _serve(channel: Channel, inbox: Inbox, build: Build) -> int:
    start = inbox.get()
    if not isinstance(start, Start):
        return 0  # the server went away before it said anything
    try:
        loop, info = build(start.config)
    except (ConfigError, WeightError, WorkerDied) as error:
        channel.send(Failed(str(error)))
        return 1
    channel.send(Ready(info))
    return EngineProcess(loop, channel, inbox).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the process; `--fd` is the inherited socket."""
    return serve(inherited_socket("engine.runtime.process", "engine", argv), _build)


def _build(config: EngineConfig) -> tuple[EngineLoop, EngineInfo]:
    # Imported late: torch takes seconds, and a server that is gone by then must be noticed.
    from engine.runtime.start import build_engine

    return build_engine(config)


if __name__ == "__main__":
    leave(main())
