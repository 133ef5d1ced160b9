"""Handlers of all routes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from engine.core.speech import SpeechRequest
from engine.errors import InvalidRequest
from engine.server.answers import EVENT_HEADERS, Format, answer_stream, answer_whole
from engine.server.audio_file import RATE_HEADER, file_rate
from engine.server.body import BodyLimits, check_expectation, read_body
from engine.server.chunks import CompletionChunks, chat_chunks
from engine.server.errors import RETRY_AFTER_S, request_timeout
from engine.server.generation import Answering, Caller, Generation
from engine.server.jsonbody import quoted
from engine.server.labels import request_label
from engine.server.logs import log_body
from engine.server.media import NeedsMedia
from engine.server.ping import PingedStream
from engine.server.plan import Plan, Serving
from engine.server.protocol import plan_chat, plan_completion
from engine.server.replies import Collected, chat_reply, completion_reply
from engine.server.service import Service
from engine.server.speech_body import plan_speech
from engine.server.speech_route import answer_speech
from engine.server.spoken import SpokenGeneration
from engine.server.tokens import detokenize, tokenize, tokenizer_info
from engine.server.transcription import TranscriptionPlan, plan_transcription
from engine.server.utterance import Utterance
from engine.source import engine_version

TENANT_KEY = web.RequestKey("tenant", str)  # set where the API key was checked

_CHAT = Format("chatcmpl-", chat_chunks, chat_reply)
_COMPLETION = Format("cmpl-", CompletionChunks, completion_reply)

T = TypeVar("T")


class Routes:
    """The endpoint's handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.get("/health", self.health),
            web.get("/metrics", self.metrics),
            web.get("/version", self.version),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{name:.+}", self.model),
            web.post("/v1/chat/completions", self.chat, expect_handler=check_expectation),
            web.post("/v1/completions", self.completions, expect_handler=check_expectation),
            web.post("/v1/audio/speech", self.speech, expect_handler=check_expectation),
            web.post("/v1/audio/transcriptions", self.transcriptions, expect_handler=check_expectation),
            web.post("/tokenize", self.tokenize, expect_handler=check_expectation),
            web.post("/detokenize", self.detokenize, expect_handler=check_expectation),
            web.get("/tokenizer_info", self.tokenizer_info),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        status = self._service.status
        headers = {} if status in ("ok", "failed") else {"Retry-After": str(RETRY_AFTER_S)}
        return _json({"status": status}, status=200 if status == "ok" else 503, headers=headers)

    async def metrics(self, _request: web.Request) -> web.Response:
        service = self._service
        prefixes = ("ming:", "vllm:") if service.options.metrics_vllm_names else ("ming:",)
        speech = None if service.speech.info is None else service.speech.stats
        text = service.metrics.render(service.engine.stats, service.options.model_names[0], prefixes, speech)
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def version(self, _request: web.Request) -> web.Response:
        return _json({"version": engine_version()})

    async def models(self, _request: web.Request) -> web.Response:
        serving = self._service.serving()
        return _json({"object": "list", "data": [self._card(name, serving) for name in serving.names]})

    async def model(self, request: web.Request) -> web.Response:
        serving = self._service.serving()
        name = request.match_info["name"]
        if name not in serving.names:
            message = f"the model {quoted(name)} is not served here; GET /v1/models lists what is"
            raise InvalidRequest(message, param="model", code="model_not_found", status=404)
        return _json(self._card(name, serving))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, plan_chat, _CHAT)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, plan_completion, _COMPLETION)

    async def speech(self, request: web.Request) -> web.StreamResponse:
        arrived_s = asyncio.get_running_loop().time()
        service = self._service
        service.serving()
        service.speech.check_room(service.options.max_queue)
        with service.active():
            spoken = await self._parse(request, plan_speech, service.options.speech_body)
            service.check_open()
            return await answer_speech(service, request, spoken, arrived_s)

    async def transcriptions(self, request: web.Request) -> web.Response:
        arrived_s = asyncio.get_running_loop().time()
        service = self._service
        serving = service.serving()
        service.check_room()
        with service.active():
            content_type = request.headers.get("Content-Type", "")

            def parse(body: bytes, serving: Serving) -> TranscriptionPlan | NeedsMedia[TranscriptionPlan]:
                return plan_transcription(body, serving, content_type)

            asked = await self._parse(request, parse, service.options.form_body)
            service.check_open()
            caller = Caller(request.get(TENANT_KEY, ""), request_label(request), arrived_s)

            async def write(choices: list[Collected]) -> bytes:
                return asked.answer(choices[0].text)

            response = await answer_whole(self._answering(serving, asked.plan, caller, None), write)
            response.headers["Content-Type"] = asked.content_type
            return response

    async def tokenize(self, request: web.Request) -> web.Response:
        return _json(await self._parse(request, tokenize, self._service.options.tokenizer_body))

    async def detokenize(self, request: web.Request) -> web.Response:
        return _json(await self._parse(request, detokenize, self._service.options.tokenizer_body))

    async def tokenizer_info(self, _request: web.Request) -> web.Response:
        return _json(tokenizer_info(self._service.serving()))

    async def _generate(
        self, request: web.Request, plan_of: Callable[[bytes, Serving], Plan | NeedsMedia[Plan]], form: Format
    ) -> web.StreamResponse:
        arrived_s = asyncio.get_running_loop().time()
        service = self._service
        serving = service.serving()
        service.check_room()
        with service.active():
            plan = await self._parse(request, plan_of, service.options.generation_body)
            if plan.sampling.json_schema is not None:
                await service.grammars.check(plan.sampling.json_schema)
            service.check_open()
            caller = Caller(request.get(TENANT_KEY, ""), request_label(request), arrived_s)
            reply_id, created = form.prefix + secrets.token_hex(12), int(time.time())
            if plan.stream:
                stream = PingedStream(request, _stream_headers(plan), service.options.sse_ping_s)
                answering = self._answering(serving, plan, caller, stream.break_off)
                return await answer_stream(answering, form.chunks(plan, reply_id, created), stream)
            answering = self._answering(serving, plan, caller, None)

            async def write(choices: list[Collected]) -> bytes:
                arguments = (plan, reply_id, created, choices, answering.usage)
                if plan.speech is None:
                    return form.reply(*arguments)
                return await asyncio.get_running_loop().run_in_executor(service.pool, form.reply, *arguments)

            response = await answer_whole(answering, write)
            response.headers.update(_file_headers(plan))
            return response

    def _answering(
        self, serving: Serving, plan: Plan, caller: Caller, on_overflow: Callable[[], None] | None
    ) -> Answering:
        service = self._service
        generation = Generation(service, serving, plan, caller, on_overflow)
        if plan.speech is None:
            return generation
        request = SpeechRequest(service.speech.next_id(), plan.sampling.seed, plan.speech.voice)
        return SpokenGeneration(generation, Utterance(service, request, caller.arrived_s, on_overflow))

    async def _parse(
        self, request: web.Request, parse: Callable[[bytes, Serving], T | NeedsMedia[T]], limits: BodyLimits
    ) -> T:
        """Read the body and have a thread make something of it, with its media decoded in between."""
        service = self._service
        serving = service.serving()
        loop = asyncio.get_running_loop()
        with service.intake.prepare() as preparation:
            body = await read_body(request, limits, preparation.hold)
            if service.options.log_requests:
                log_body(request, body)
            parsed = await loop.run_in_executor(service.pool, parse, body, serving)
            if not isinstance(parsed, NeedsMedia):
                return parsed
            limit_s = service.options.request_timeout_s
            try:
                async with asyncio.timeout(limit_s):
                    media = await service.media.load(parsed.parts, preparation.hold)
            except TimeoutError:
                raise request_timeout(limit_s) from None
            return await loop.run_in_executor(service.pool, parsed.finish, media)

    def _card(self, name: str, serving: Serving) -> dict[str, object]:
        """A model as OpenAI lists it, with what the harness asks for: the context and whose answers these are."""
        return {
            "id": name,
            "object": "model",
            "created": self._service.created,
            "owned_by": "ming-eval",
            "root": serving.names[0],
            "max_model_len": serving.info.max_model_len,
            "checkpoint_digest": serving.info.checkpoint_digest or None,
        }


def _stream_headers(plan: Plan) -> dict[str, str]:
    return EVENT_HEADERS if plan.speech is None else {**EVENT_HEADERS, RATE_HEADER: str(plan.speech.sample_rate)}


def _file_headers(plan: Plan) -> dict[str, str]:
    """The rate of the speech in a whole answer: raw samples do not say it themselves."""
    speech = plan.speech
    return {} if speech is None else {RATE_HEADER: str(file_rate(speech.sample_rate, speech.format))}


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )
