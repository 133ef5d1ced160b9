"""The engine process over a fake runner: what a slow preparation holds up, and what it does not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, cast

from engine.child import Inbox
from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import GenerationRequest, SchedulerLimits
from engine.core.scheduler import Scheduler
from engine.ipc import Abort, Channel, Event, Report, Submit
from engine.runtime.process import EngineProcess
from tests.engine.core.fakes import FakeRunner, make_request


class Wire:
    """Keeps what the process sends, and tells how many tokens each request has had."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()

    def send(self, event: Event) -> None:
        assert isinstance(event, Report)
        for output in event.outputs:
            if output.finish is not None:
                self.ended.put(output.request_id)


def start(prepare: Callable[[GenerationRequest], Callable[[], None] | None]) -> tuple[Inbox, Wire, threading.Thread]:
    scheduler = Scheduler(SchedulerLimits(64, 8, 256), BlockManager(64, 4))
    loop = EngineLoop(scheduler, FakeRunner(4, 8), prepare=prepare)
    inbox: Inbox = queue.SimpleQueue()
    wire = Wire()
    process = EngineProcess(loop, cast(Channel, cast(Any, wire)), inbox)
    thread = threading.Thread(target=process.run)
    thread.start()
    return inbox, wire, thread


def test_requests_overtake_one_that_is_being_prepared() -> None:
    gate = threading.Event()
    slow = {1, 2}
    inbox, wire, thread = start(lambda request: (lambda: cast(None, gate.wait(120))) if request.id in slow else None)
    inbox.put(Submit(tuple(make_request(number, 5) for number in (1, 2, 3))))
    assert wire.ended.get(timeout=120) == 3
    inbox.put(Abort((2,)))  # before it has ever reached the loop
    inbox.put(Submit((make_request(4, 5),)))
    assert wire.ended.get(timeout=120) == 4
    gate.set()
    assert wire.ended.get(timeout=120) == 1
    inbox.put(None)
    thread.join(120)
    assert not thread.is_alive()
    assert wire.ended.empty()
