"""What all routes share: the engine, what it serves, and whether it takes work now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from engine.core.request import MediaKind
from engine.inputs.fetch import MediaFetcher
from engine.inputs.media_pool import MediaPool
from engine.inputs.processor_config import MediaConfig
from engine.inputs.tokenizer import Tokenizer
from engine.ipc import Command
from engine.server.admission import QueueLimits, check_room
from engine.server.auth import KeyRing
from engine.server.body import BodyLimits
from engine.server.errors import ApiError, unavailable
from engine.server.grammar_check import GrammarCheck
from engine.server.grammar_worker import Vocabulary
from engine.server.handle import EngineHandle
from engine.server.intake import Intake
from engine.server.jsonbody import FieldLog
from engine.server.media import DEFAULT_LIMITS, MediaLoader
from engine.server.metrics import Metrics
from engine.server.plan import Serving
from engine.server.speech_handle import SpeechHandle
from engine.server.worker import WorkerState

Status = Literal["ok", "starting", "draining", "failed"]

_TOKENIZER_BODY_BYTES = 4 << 20
_SPEECH_BODY_BYTES = 16 << 20
_NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The operator's choices for the HTTP side.

    `max_queue_tokens` is None for eight contexts. `num_running` is how many requests the engine runs at once.
    `loopback_only` says that the server is bound to this machine's own address. `media_hosts` are the names from
    which http(s) media is fetched, `media_limits` how many parts of a kind one request may have. A stream that is quiet
    for `sse_ping_s` gets a comment, 0 for never. `template_kwargs` are accepted beside `enable_thinking`.
    `max_request_memory_bytes` bounds bodies and decoded media of all requests that have not reached the engine.
    """

    model_names: tuple[str, ...]
    num_running: int = 256
    max_queue: int = 256
    max_queue_tokens: int | None = None
    max_body_bytes: int = 64 << 20
    body_timeout_s: float = 60.0
    request_timeout_s: float = 600.0
    max_connections: int = 1024
    max_request_memory_bytes: int = 2 << 30
    keys: KeyRing = field(default_factory=lambda: KeyRing(()))
    loopback_only: bool = True
    metrics_auth: bool = False
    metrics_vllm_names: bool = False
    system_default: str | None = None
    cors_origins: tuple[str, ...] = ()
    log_requests: bool = False
    media_hosts: tuple[str, ...] = ()
    sse_ping_s: float = 0.0
    template_kwargs: tuple[str, ...] = ()
    media_limits: Mapping[MediaKind, int] = field(default_factory=lambda: dict(DEFAULT_LIMITS))

    @property
    def generation_body(self) -> BodyLimits:
        return BodyLimits(self.max_body_bytes, self.body_timeout_s)

    @property
    def speech_body(self) -> BodyLimits:
        return BodyLimits(_SPEECH_BODY_BYTES, self.body_timeout_s)

    @property
    def form_body(self) -> BodyLimits:
        return BodyLimits(self.max_body_bytes, self.body_timeout_s, "multipart/form-data")

    @property
    def tokenizer_body(self) -> BodyLimits:
        return BodyLimits(_TOKENIZER_BODY_BYTES, self.body_timeout_s)


class Service:
    """State of the endpoint; lives on the event loop.

    Attributes:
        created: start of the server, in seconds since the epoch; model cards keep showing it.
        intake: requests that have not reached the engine.
        pool: threads for parsing and tokenising, which must not hold up the event loop.
    """

    def __init__(self, options: ServerOptions, engine: EngineHandle, speech: SpeechHandle | None = None) -> None:
        self.options = options
        self.engine = engine
        self.speech = speech or SpeechHandle(_no_talker)
        self.metrics = Metrics()
        self.created = int(time.time())
        self.intake = Intake(options.max_request_memory_bytes)
        self.pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="parse")
        self._media: MediaLoader | None = None
        self._grammars: GrammarCheck | None = None
        self._serving: Serving | None = None
        self._is_draining = False
        self._is_over = False
        self._num_active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def status(self) -> Status:
        if self._has_failed:
            return "failed"
        if self._is_draining:
            return "draining"
        return "starting" if self._serving is None else "ok"

    @property
    def _has_failed(self) -> bool:
        return WorkerState.FAILED in (self.engine.state, self.speech.state)

    @property
    def queue_limits(self) -> QueueLimits:
        options = self.options
        tokens = options.max_queue_tokens or 8 * self.engine.info.max_model_len
        return QueueLimits(options.num_running, options.max_queue, tokens)

    @property
    def media(self) -> MediaLoader:
        """Decodes media; there once work is taken."""
        assert self._media is not None, "asked for media before the engine was ready"
        return self._media

    @property
    def grammars(self) -> GrammarCheck:
        """Tries the schemas of requests; there where text is served."""
        assert self._grammars is not None, "asked for a schema where no text is served"
        return self._grammars

    def open(self, tokenizer: Tokenizer | None, media: MediaConfig | None = None) -> None:
        """The engine is ready: take work from now on."""
        options = self.options
        self._media = MediaLoader(
            MediaFetcher(options.media_hosts), MediaPool(media or MediaConfig()), self.metrics.media_fetches
        )
        info = self.engine.info
        if tokenizer is not None:
            self._grammars = GrammarCheck(Vocabulary(tokenizer.serialized, info.vocab_size, info.eos_token_ids))
        self._serving = Serving(
            names=options.model_names,
            info=self.engine.info,
            tokenizer=tokenizer,
            system_default=options.system_default,
            media_limits=options.media_limits,
            field_log=FieldLog(),
            speech=self.speech.info,
            template_kwargs=frozenset(options.template_kwargs),
        )

    def serving(self) -> Serving:
        """What is served, for a request that wants work done.

        Raises:
            ApiError: 503, no work is taken now.
        """
        if self._has_failed:
            raise unavailable("engine_failed")
        if self._is_draining:
            raise unavailable("draining")
        if self._serving is None:
            raise unavailable("starting")
        return self._serving

    def check_room(self) -> None:
        """For a generation, before its body is read.

        Raises:
            Overloaded: there is no place for it.
        """
        check_room(self.intake.num_requests, self.engine.load, self.queue_limits, self.engine.drain)

    def check_open(self) -> None:
        """For a request that was taken in and prepared: one that came before the drain began may still run.

        Raises:
            ApiError: 503, the server has stopped meanwhile.
        """
        if self._has_failed:
            raise unavailable("engine_failed")
        if self._is_over:
            raise unavailable("draining")

    async def close(self) -> None:
        """Give up the threads and the processes that decode media."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self._media is not None:
            await self._media.close()
        if self._grammars is not None:
            await self._grammars.close()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around the handling of a generation: draining waits for it."""
        self._num_active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            if self._num_active == 0:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Take no more work, let what runs finish, and end what is left after `timeout_s` with an error."""
        self._is_draining = True
        if not await self._wait_idle(timeout_s):
            self._is_over = True
            await self.end_all(unavailable("draining"))

    async def end_all(self, error: ApiError, timeout_s: float = 2.0) -> None:
        """End every open request with `error`, wherever it stands, and give all of them the time to tell their
        clients."""
        self.engine.fail_open(error)
        self.speech.fail_open(error)
        self.intake.end_all(error)
        await self._wait_idle(timeout_s)

    async def _wait_idle(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


def _no_talker(_command: Command) -> None:
    raise AssertionError("a command for a talker that was never started")
