"""Whether a schema can be enforced, found out in a process of its own before its request is let in."""

from __future__ import annotations

import asyncio
import signal
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine.errors import InvalidRequest, Overloaded
from engine.inputs.fenced import FencedGoneError, FencedProcess
from engine.server.errors import RETRY_AFTER_S
from engine.server.grammar_worker import Schema, Verdict, Vocabulary
from engine.server.structured import explain, too_slow

_START_LIMIT_S = 60.0
_PATIENCE_S = 20.0  # on the clock; the limit proper is one of processor time
_CACHED = 256
_verdict_decoder = msgspec.msgpack.Decoder(Verdict)  # built here, where there is one thread: see jsonbody.py


class GrammarCheck:
    """Tries schemas one after the other; the worker starts with the first one, and anew after one that killed it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: OrderedDict[str, str] = OrderedDict()  # schema to what is wrong with it, nothing where it is fine
        self._worker: FencedProcess | None = None
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def check(self, schema: str) -> None:
        """Let a schema pass that can be enforced.

        Raises:
            InvalidRequest: it cannot, or takes too long to compile.
            Overloaded: the machine is too busy to find out.
        """
        async with self._turn:
            if schema not in self._known:
                self._known[schema] = await self._to_its_end(schema)
                if len(self._known) > _CACHED:
                    self._known.popitem(last=False)
            self._known.move_to_end(schema)
            problem = self._known[schema]
        if problem:
            raise InvalidRequest(problem, param="response_format")

    async def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
        await asyncio.to_thread(self._thread.shutdown)
        if self._worker is not None:
            self._worker.reap()

    async def _to_its_end(self, schema: str) -> str:
        """`_try`, also for a client that leaves meanwhile: the next one would have to wait for another worker."""
        trying = asyncio.create_task(self._try(schema))
        try:
            return await asyncio.shield(trying)
        except asyncio.CancelledError:
            await asyncio.gather(trying, return_exceptions=True)
            raise

    async def _try(self, schema: str) -> str:
        """What is wrong with a schema. A worker that somebody else killed says nothing of it: once more."""
        for is_last in (False, True):
            try:
                return await self._verdict(schema)
            except FencedGoneError as error:
                if is_last or error.code != -signal.SIGKILL:
                    break
        return explain("the worker is gone")  # of what the schema made it do

    async def _verdict(self, schema: str) -> str:
        worker = await self._ready()
        try:
            verdict = await worker.ask(Schema(schema), _verdict_decoder, _PATIENCE_S, self._thread)
        except TimeoutError:
            message = "The server is too busy to compile the schema. Try again later."
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S) from None
        except FencedGoneError as error:
            if error.code == -signal.SIGPROF:
                return too_slow(self._vocabulary.limit_s)
            raise
        return explain(verdict.problem) if verdict.problem else ""

    async def _ready(self) -> FencedProcess:
        """The worker, started where there is none; one that ends while it starts is started once more.

        Raises:
            RuntimeError: it does not start.
        """
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        for _ in range(2):
            if self._worker is not None:
                self._worker.reap()
            self._worker = FencedProcess("engine.server.grammar_worker")
            try:
                await self._worker.ask(self._vocabulary, _verdict_decoder, _START_LIMIT_S, self._thread)
            except (TimeoutError, FencedGoneError):
                continue
            return self._worker
        raise RuntimeError("the process that tries schemas does not start; its output above says why")
