"""Whether a schema can be enforced, found out in a process of its own before its request is let in."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine.errors import EngineError, InvalidRequest, Overloaded
from engine.inputs.decode_wire import receive_frame, send_frame
from engine.server.errors import RETRY_AFTER_S
from engine.server.grammar_worker import Schema, Verdict, Vocabulary
from engine.server.structured import explain, too_slow

_START_LIMIT_S = 60.0
_PATIENCE_S = 20.0  # on the clock; the limit proper is one of processor time
_CACHED = 256
_verdict_decoder = msgspec.msgpack.Decoder(Verdict)  # built here, where there is one thread: see jsonbody.py
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")


class GrammarCheck:
    """Tries schemas one after the other; the worker starts with the first one, and anew after one that killed it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: OrderedDict[str, str] = OrderedDict()  # schema to what is wrong with it, nothing where it is fine
        self._worker: _Worker | None = None
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
            except _WorkerGoneError as error:
                if is_last or error.code != -signal.SIGKILL:
                    break
        return explain("the worker is gone")  # of what the schema made it do

    async def _verdict(self, schema: str) -> str:
        worker = await self._ready()
        try:
            verdict = await self._exchange(worker, Schema(schema), _PATIENCE_S)
        except TimeoutError:
            message = "The server is too busy to compile the schema. Try again later."
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S) from None
        except _WorkerGoneError as error:
            if error.code == -signal.SIGPROF:
                return too_slow(self._vocabulary.limit_s)
            raise
        return explain(verdict.problem) if verdict.problem else ""

    async def _ready(self) -> _Worker:
        """The worker, started where there is none; one that ends while it starts is started once more.

        Raises:
            RuntimeError: it does not start.
        """
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        for _ in range(2):
            if self._worker is not None:
                self._worker.reap()
            self._worker = _Worker()
            try:
                await self._exchange(self._worker, self._vocabulary, _START_LIMIT_S)
            except (TimeoutError, _WorkerGoneError):
                continue
            return self._worker
        raise RuntimeError("the process that tries schemas does not start; its output above says why")

    async def _exchange(self, worker: _Worker, message: msgspec.Struct, limit_s: float) -> Verdict:
        """Send and wait for the answer in a thread; a worker that does not give one in time is killed.

        Raises:
            TimeoutError: it took too long.
            _WorkerGoneError: it ended.
        """
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.get_running_loop().run_in_executor(self._thread, worker.exchange, message)
        except BaseException:
            worker.kill()
            raise


class _WorkerGoneError(EngineError):
    """The worker ended with this exit code before it answered."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the process that tries schemas ended with exit code {code}")
        self.code = code


class _Worker:
    """The worker process and the socket to it."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.server.grammar_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
        self._is_killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return not self._is_killed and self._process.poll() is None

    def exchange(self, message: msgspec.Struct) -> Verdict:
        """Blocks until the answer is there; `kill` from another thread ends the wait."""
        try:
            send_frame(self._sock, message)
            frame = receive_frame(self._sock)
        except OSError:
            frame = None
        if frame is None:
            raise _WorkerGoneError(self._process.wait())
        return _verdict_decoder.decode(frame)

    def kill(self) -> None:
        self._is_killed = True
        self._process.kill()

    def reap(self) -> None:
        """Free what a killed worker leaves behind."""
        self._process.wait()
        self._sock.close()
