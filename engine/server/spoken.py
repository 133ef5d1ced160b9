"""A chat that is spoken: the talker reads the answer aloud while the thinker still writes it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from engine.server.choice import Delta
from engine.server.generation import Generation
from engine.server.plan import Plan
from engine.server.usage import Usage, with_speech
from engine.server.utterance import Utterance

_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"


class SpokenGeneration:
    """One choice and its speech as one stream of deltas; the last of them, with the finish reason, ends the speech."""

    def __init__(self, generation: Generation, utterance: Utterance) -> None:
        self._generation = generation
        self._utterance = utterance
        self._aloud = AloudText()
        self._end: Delta | None = None  # how the text ended, told once it is spoken
        self._text: asyncio.Task[list[Delta]] | None = None
        self._speech: asyncio.Task[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Submit the request and open its utterance.

        Raises:
            Overloaded, InvalidRequest: they are not admitted, now or ever.
            ApiError: engine or talker are gone.
        """
        with ExitStack() as stack:
            stack.enter_context(self._utterance)
            stack.enter_context(self._generation)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in filter(None, (self._text, self._speech)):
            if not task.cancel() and not task.cancelled():
                task.exception()  # both fail where the server does; one error is enough
        self._stack.__exit__(kind, error, trace)

    @property
    def plan(self) -> Plan:
        return self._generation.plan

    @property
    def is_finished(self) -> bool:
        return self._utterance.is_finished and self._generation.is_finished

    @property
    def usage(self) -> Usage:
        return with_speech(self._generation.usage, self._utterance.num_steps)

    async def next(self) -> list[Delta]:
        """What is new of text or speech.

        Raises:
            ApiError: the request cannot be answered to its end.
        """
        if self._text is None and not self._generation.is_finished:
            self._text = asyncio.create_task(self._generation.next())
        if self._speech is None and not self._utterance.is_finished:
            self._speech = asyncio.create_task(self._utterance.next())
        await asyncio.wait(filter(None, (self._text, self._speech)), return_when=asyncio.FIRST_COMPLETED)
        return [*self._take_text(), *self._take_speech()]

    def _take_text(self) -> list[Delta]:
        if self._text is None or not self._text.done():
            return []
        task, self._text = self._text, None
        return [self._read(delta) for delta in task.result()]

    def _read(self, delta: Delta) -> Delta:
        """Hand text to the talker; the finish reason is held back."""
        is_last = delta.finish is not None
        text = self._aloud.push(delta.text, last=is_last)
        if text or is_last:
            self._utterance.say(text, last=is_last)
        if is_last:
            # A last delta without text makes no chunk: its scores wait for the one that ends the speech.
            held = [] if delta.text else delta.entries
            self._end = Delta(delta.index, entries=held, finish=delta.finish, stop_reason=delta.stop_reason)
            delta = replace(delta, entries=delta.entries if delta.text else [])
        return replace(delta, finish=None, stop_reason=None)

    def _take_speech(self) -> list[Delta]:
        if self._speech is None or not self._speech.done():
            return []
        task, self._speech = self._speech, None
        pcm = task.result()
        if self._utterance.is_finished and self._end is not None:
            return [replace(self._end, pcm=pcm)]
        return [Delta(0, pcm=pcm)] if pcm else []


class AloudText:
    """The part of an answer that is meant for the ear: a thought in front of it is not."""

    def __init__(self) -> None:
        self._held: str | None = ""  # of what may be a thought; None once the answer has begun

    def push(self, text: str, *, last: bool) -> str:
        """More text -> what of it is to be spoken; at the `last` one a thought that never ended is silent."""
        if self._held is None:
            return text
        self._held += text
        start = self._held.lstrip()
        if start.startswith(_THOUGHT_START):
            _, end, answer = start.partition(_THOUGHT_END)
            self._held = None if end else self._held
            return answer
        if _THOUGHT_START.startswith(start) and not last:
            return ""
        answer, self._held = self._held, None
        return answer
