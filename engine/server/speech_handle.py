"""The talker as the HTTP side sees it: text goes in, samples come back to the queue of their HTTP request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from engine.config import SpeechInfo
from engine.core.speech import SpeechOutput, SpeechRequest, SpeechStats
from engine.errors import Overloaded
from engine.ipc import Abort, Command, Event, Failed, Say, Speak, SpeechReady, SpeechReport
from engine.server.errors import RETRY_AFTER_S, ApiError, unavailable
from engine.server.outputs import SpeechQueue
from engine.server.worker import WorkerHandle, WorkerState


class SpeechHandle(WorkerHandle):
    """Keeps account of the utterances that are open; everything happens on the event loop."""

    def __init__(self, send: Callable[[Command], None]) -> None:
        super().__init__(send)
        self.stats = SpeechStats()
        self.info: SpeechInfo | None = None
        self._open: dict[int, SpeechQueue] = {}

    def open(self, request: SpeechRequest, queue: SpeechQueue, max_queue: int) -> None:
        """Start an utterance, whose outputs go to `queue` until its last one or `abort`.

        Raises:
            ApiError: the talker is not there.
            Overloaded: as many as may wait are waiting.
        """
        if self.state is not WorkerState.READY:
            raise unavailable("engine_failed" if self.state is WorkerState.FAILED else "starting")
        self.check_room(max_queue)
        self._open[request.id] = queue
        self._send(Speak(request))

    def check_room(self, max_queue: int) -> None:
        """Raises:
        Overloaded: as many as may wait are waiting.
        """
        if len(self._open) >= self.stats.num_slots + max_queue:
            raise Overloaded("The speech queue is full. Try again later.", retry_after_s=RETRY_AFTER_S)

    def say(self, request_id: int, text: str, *, last: bool) -> None:
        """More text of an utterance, if it is still open."""
        if request_id in self._open:
            self._send(Say(request_id, text, last))

    def abort(self, request_id: int) -> None:
        """Forget an utterance; if it is still open it ends in the speech process, too."""
        if self._open.pop(request_id, None) is not None and self.state is WorkerState.READY:
            self._send(Abort((request_id,)))

    def receive(self, event: Event) -> None:
        """Take in what the speech process says."""
        if isinstance(event, SpeechReport):
            self.stats = event.stats
            for output in event.outputs:
                self._route(output)
        elif isinstance(event, SpeechReady):
            self.info, num_slots = event.info, event.info.num_slots
            self.stats = SpeechStats(num_slots=num_slots, num_free_slots=num_slots)
            self._change(WorkerState.READY)
        elif isinstance(event, Failed):
            self.lose(event.message)

    def lose(self, message: str) -> None:
        """The speech process is gone; `message` is for the operator. Only the first reason is kept."""
        if self.state is WorkerState.FAILED:
            return
        self.failure = message
        free = self.stats.num_slots
        self.stats = replace(self.stats, num_open=0, num_running=0, num_waiting=0, num_free_slots=free)
        still_open, self._open = self._open, {}
        self._change(WorkerState.FAILED)
        for queue in still_open.values():
            queue.fail(unavailable("engine_failed"))

    def fail_open(self, error: ApiError) -> None:
        """End every open utterance with `error`; the talker goes on."""
        for request_id, queue in list(self._open.items()):
            self.abort(request_id)
            queue.fail(error)

    def _route(self, output: SpeechOutput) -> None:
        queue = self._open.get(output.request_id)
        if queue is None:
            return  # aborted meanwhile
        if output.finish is not None:
            del self._open[output.request_id]
        queue.put(output)
