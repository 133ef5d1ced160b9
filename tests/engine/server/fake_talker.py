"""A talker that says each character as one sample, in the test's own process and on its own event loop."""

from __future__ import annotations

import asyncio

import numpy as np

from engine.config import SpeechInfo
from engine.core.speech import SpeechFinish, SpeechOutput, SpeechRequest, SpeechStats
from engine.ipc import Abort, Command, Say, Speak, SpeechReady, SpeechReport
from engine.server.speech_handle import SpeechHandle

RATE_HZ = 16_000
NUM_SLOTS = 2
INFO = SpeechInfo(
    sample_rate=RATE_HZ,
    patch_samples=1,
    num_slots=NUM_SLOTS,
    voices=("DB30", "lingguang"),
    default_voice="DB30",
    device="cpu",
    dtype="float32",
    load_s=0.0,
)


def pcm_of(text: str) -> bytes:
    """What `FakeTalker` says for a text: a sample of 100 times its code for each letter and digit."""
    return (np.array([ord(char) for char in text if char.isalnum()], np.int64) * 100 % 30_000).astype("<i2").tobytes()


class FakeTalker:
    """Speaks as soon as text comes, one character a turn of the event loop.

    Attributes:
        requests: all that were opened, in order.
        said: pieces of text in order.
        aborted: ids that were given up.
        gate: closed, it holds the talker after `hold_after` characters of an utterance until the test opens it.
    """

    def __init__(self, *, hold_after: int | None = None, refuses: str | None = None) -> None:
        self.handle = SpeechHandle(self._obey)
        self.requests: list[SpeechRequest] = []
        self.said: list[str] = []
        self.aborted: list[int] = []
        self.gate = asyncio.Event()
        self._hold_after = hold_after
        self._refuses = refuses
        self._texts: dict[int, asyncio.Queue[tuple[str, bool]]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def num_open(self) -> int:
        return len(self._tasks)

    def start(self) -> None:
        self.handle.receive(SpeechReady(INFO))

    def report(self, *outputs: SpeechOutput) -> None:
        free = max(0, NUM_SLOTS - len(self._tasks))
        self.handle.receive(SpeechReport(outputs, SpeechStats(len(self._tasks), 0, 0, NUM_SLOTS, free)))

    def _obey(self, command: Command) -> None:
        if isinstance(command, Speak):
            self.requests.append(command.request)
            self._texts[command.request.id] = asyncio.Queue()
            task = asyncio.get_running_loop().create_task(self._speak(command.request))
            self._tasks[command.request.id] = task
        elif isinstance(command, Say):
            self.said.append(command.text)
            self._texts[command.request_id].put_nowait((command.text, command.last))
        elif isinstance(command, Abort):
            self.aborted += command.request_ids
            for request_id in command.request_ids:
                self._tasks.pop(request_id).cancel()
            asyncio.get_running_loop().call_soon(self.report)

    async def _speak(self, request: SpeechRequest) -> None:
        count, last = 0, False
        while not last:
            text, last = await self._texts[request.id].get()
            for char in filter(str.isalnum, text):
                if count == self._hold_after:
                    await self.gate.wait()
                await asyncio.sleep(0)
                if count == request.max_steps:
                    self._end(SpeechOutput(request.id, finish=SpeechFinish.LENGTH))
                    return
                count += 1
                self.report(SpeechOutput(request.id, pcm_of(char), 1, 1))
        refused = SpeechOutput(request.id, finish=SpeechFinish.REFUSED, error=self._refuses)
        self._end(SpeechOutput(request.id, finish=SpeechFinish.STOP) if self._refuses is None else refused)

    def _end(self, output: SpeechOutput) -> None:
        del self._tasks[output.request_id]
        self.report(output)
