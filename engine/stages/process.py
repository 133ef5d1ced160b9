"""The speech process: takes text from the server over an inherited socket and gives samples back.

Started by the server as `python -m engine.stages.process --fd N`, and only for a checkpoint with a talker.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.child import Inbox, Prepared, inherited_socket, leave, run_child
from engine.config import SpeechInfo, SpeechOptions
from engine.errors import ConfigError, WeightError
from engine.ipc import Abort, Channel, Command, Failed, Say, Speak, SpeechReady, SpeechReport, StartSpeech

if TYPE_CHECKING:  # imported late: torch takes seconds, and a server that is gone by then must be noticed
    from engine.stages.loop import SpeechLoop


class SpeechProcess:
    """Runs a speech loop on commands from `inbox`; outputs and figures go out through `channel` after each step."""

    def __init__(self, loop: SpeechLoop, channel: Channel, inbox: Inbox) -> None:
        self._loop = loop
        self._channel = channel
        self._inbox = inbox

    def run(self) -> int:
        """Work until the server goes away; returns the exit code."""
        while self._take_commands():
            self._channel.send(SpeechReport(self._loop.run_once(), self._loop.stats()))
        return 0

    def _take_commands(self) -> bool:
        """Pass on what has arrived; with nothing to say, wait for it. False: the server is gone."""
        is_idle = not self._loop.has_work
        while True:
            try:
                command = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            self._pass_on(command)
            is_idle = False  # report even if nothing is to be said: figures have changed

    def _pass_on(self, command: Command | Prepared) -> None:
        if isinstance(command, Speak):
            self._loop.open(command.request)
        elif isinstance(command, Say):
            self._loop.say(command.request_id, command.text, last=command.last)
        elif isinstance(command, Abort):
            self._loop.abort(command.request_ids)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the process; `--fd` is the inherited socket."""
    return run_child(inherited_socket("engine.stages.process", "speech", argv), _serve)


def _serve(channel: Channel, inbox: Inbox) -> int:
    start = inbox.get()
    if not isinstance(start, StartSpeech):
        return 0  # the server went away before it said anything
    try:
        loop, info = _build(start.options)
    except (ConfigError, WeightError) as error:
        channel.send(Failed(str(error)))
        return 1
    channel.send(SpeechReady(info))
    return SpeechProcess(loop, channel, inbox).run()


def _build(options: SpeechOptions) -> tuple[SpeechLoop, SpeechInfo]:
    from engine.stages.start import build_speech

    return build_speech(options)


if __name__ == "__main__":
    leave(main())
