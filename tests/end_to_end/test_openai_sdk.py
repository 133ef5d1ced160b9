"""The official OpenAI client, sync and async, against the endpoint over a scripted engine and over the real one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import uvloop

from engine.server.auth import KeyRing
from tests.end_to_end.lazy import lazy_import
from tests.end_to_end.server import ANSWER_LIMIT_S, running_server
from tests.engine.inputs.media_files import audio_file
from tests.engine.server.endpoint import MODEL, endpoint
from tests.engine.server.fake_engine import CONTEXT, FakeEngine, says

if TYPE_CHECKING:
    import openai
else:
    openai = lazy_import("openai")

pytestmark = pytest.mark.slow  # the client takes seconds to import

TEXT = "Hello, wörld 😀!"
KEY = "sk-test"
LIMIT_S = 60  # against hanging
QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A server in a thread of its own, as the sync client blocks."""
    started, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with endpoint(FakeEngine(says(TEXT)), keys=KeyRing([KEY])) as server:
            urls.append(server.url + "/v1")
            started.set()
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(LIMIT_S)
    yield urls[0]
    stop.set()
    thread.join()


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=LIMIT_S) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    card = client.models.retrieve(MODEL)
    assert (card.object, card.owned_by) == ("model", "ming-eval")
    assert card.model_extra == {"root": MODEL, "max_model_len": CONTEXT, "checkpoint_digest": "0" * 64}


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=QUESTION, n=2, seed=7, max_completion_tokens=100)
    assert [choice.message.content for choice in reply.choices] == [TEXT, TEXT]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2 * (len(TEXT.encode()) + 1)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 3
    assert reply._request_id


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


def test_stream_helper_accumulates(client: openai.OpenAI) -> None:
    """The SDK's own accumulator is stricter about deltas than a loop over chunks."""
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, logprobs=True, top_logprobs=2) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    (choice,) = final.choices
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content).decode() == TEXT


def test_extra_body(client: openai.OpenAI) -> None:
    """Fields outside OpenAI's schema arrive at the top level of the body."""
    extra = {"ignore_eos": True, "min_tokens": 2, "top_k": 5, "stop_token_ids": [ord(",")]}
    reply = client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=extra)
    assert reply.choices[0].message.content == "Hello"
    assert reply.choices[0].model_extra == {"stop_reason": ord(",")}


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model=MODEL, prompt=[[1, 2], [3]], max_tokens=5, logprobs=1, extra_body={"return_token_ids": True}
    )
    assert [choice.text for choice in reply.choices] == ["Hello", "Hello"]
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.tokens == list("Hello")
    assert (reply.choices[0].model_extra or {})["token_ids"] == list(b"Hello")
    pieces = client.completions.create(model=MODEL, prompt="x", max_tokens=5, stop="l", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == "He"


def test_errors_become_the_sdk_classes(base_url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as invalid:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=3)
    assert (invalid.value.param, invalid.value.code) == ("temperature", "invalid_value")
    assert "temperature must be between 0 and 2, got 3" in str(invalid.value)
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=MODEL, prompt=[1] * CONTEXT)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    stranger = openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_error_within_a_stream_is_raised() -> None:
    """An error event in place of a chunk ends the iteration with the SDK's exception."""

    async def fail_in_the_middle() -> None:
        engine = FakeEngine(says(TEXT), hold_after=3)
        async with (
            endpoint(engine, request_timeout_s=1.0) as server,
            openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client,
        ):
            stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            with pytest.raises(openai.APIError) as error:
                async for _ in stream:
                    pass
        assert error.value.code == "request_timeout"

    asyncio.run(asyncio.wait_for(fail_in_the_middle(), LIMIT_S))


def test_async_client_with_many_streams(base_url: str) -> None:
    async def read_one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def read_many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(read_one(client) for _ in range(16)))

    assert asyncio.run(asyncio.wait_for(read_many(), LIMIT_S)) == [TEXT] * 16


def test_async_client_that_cancels_frees_the_engine() -> None:
    async def cancel() -> None:
        engine = FakeEngine(says(TEXT), hold_after=3)
        async with (
            endpoint(engine) as server,
            openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client,
        ):
            stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            await anext(aiter(stream))
            await stream.close()
            await asyncio.wait_for(engine.until_idle(), LIMIT_S)

    asyncio.run(asyncio.wait_for(cancel(), LIMIT_S))


@pytest.fixture(scope="module")
def tiny_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python -m engine` with the embedded model, once it is ready."""
    options = ("--model", str(tiny_model), "--threads", "1", "--kv-tokens", "4096", "--max-model-len", "2048")
    with running_server(tmp_path_factory.mktemp("serve"), *options, "--speech", "off") as server:
        yield server.url


def test_real_engine_streams_what_it_answers_whole(tiny_url: str) -> None:
    with openai.OpenAI(base_url=tiny_url + "/v1", api_key="x", max_retries=0, timeout=ANSWER_LIMIT_S) as client:
        model = client.models.list().data[0].id
        whole = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=24)
        stream = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=24, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24 or whole.choices[0].finish_reason == "stop"


def test_real_engine_draws_by_seed_and_scores_what_it_drew(tiny_url: str) -> None:
    """The same seed gives the same tokens, alone or beside others, and scoring them again gives their values."""
    with openai.OpenAI(base_url=tiny_url + "/v1", api_key="x", max_retries=0, timeout=ANSWER_LIMIT_S) as client:
        model = client.models.list().data[0].id
        fields = {"ignore_eos": True, "return_token_ids": True}
        prompt = list(range(100, 140))

        def draw(prompts: list[list[int]], seed: int) -> list[list[int]]:
            reply = client.completions.create(
                model=model, prompt=prompts, max_tokens=12, temperature=1.5, seed=seed, logprobs=0, extra_body=fields
            )
            drawn.extend(reply.choices)
            return [(choice.model_extra or {})["token_ids"] for choice in reply.choices]

        drawn: list[openai.types.CompletionChoice] = []
        (alone,) = draw([prompt], 5)
        beside = draw([[7, 8, 9], prompt, prompt[:3]], 5)
        assert beside[1] == alone
        assert draw([prompt], 6) != [alone]
        scored = client.completions.create(model=model, prompt=[prompt + alone], max_tokens=0, echo=True, logprobs=0)
        assert scored.choices[0].logprobs is not None
        assert drawn[0].logprobs is not None
        assert scored.choices[0].logprobs.token_logprobs is not None
        values = scored.choices[0].logprobs.token_logprobs[len(prompt) :]
        assert values == pytest.approx(drawn[0].logprobs.token_logprobs, abs=1e-3)


def test_real_engine_keeps_to_the_schema_of_the_sdk(tiny_url: str) -> None:
    """`parse` sends a strict schema made from a class; whole, streamed, with several samples and at any temperature."""
    import pydantic  # with the SDK, not with the collection

    Weather = pydantic.create_model("Weather", sunny=(bool, ...), degrees=(Literal[0, 10, 20, 30], ...))  # noqa: N806
    with openai.OpenAI(base_url=tiny_url + "/v1", api_key="x", max_retries=0, timeout=ANSWER_LIMIT_S) as client:
        model = client.models.list().data[0].id
        reply = client.chat.completions.parse(
            model=model, messages=QUESTION, response_format=Weather, n=3, temperature=1.8, seed=1
        )
        assert len(reply.choices) == 3
        for choice in reply.choices:
            assert choice.finish_reason == "stop"
            assert isinstance(choice.message.parsed, Weather), choice.message.content
        with client.chat.completions.stream(
            model=model, messages=QUESTION, response_format=Weather, temperature=0
        ) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)
        free = client.chat.completions.create(
            model=model, messages=QUESTION, response_format={"type": "json_object"}, max_tokens=60
        )
        assert (free.choices[0].message.content or "").lstrip().startswith("{")


def test_real_engine_transcribes_for_the_sdk(tiny_url: str) -> None:
    clip = ("clip.wav", audio_file("wav", 24_000), "audio/wav")
    with openai.OpenAI(base_url=tiny_url + "/v1", api_key="x", max_retries=0, timeout=ANSWER_LIMIT_S) as client:
        model = client.models.list().data[0].id
        plain = client.audio.transcriptions.create(model=model, file=clip, language="en", temperature=0)
        as_text = client.audio.transcriptions.create(model=model, file=clip, language="en", response_format="text")
        verbose = client.audio.transcriptions.create(
            model=model, file=clip, language="en", response_format="verbose_json"
        )
        assert plain.text == as_text == verbose.text
        assert (verbose.language, round(float(verbose.duration), 1)) == ("english", 1.5)
        with pytest.raises(openai.BadRequestError) as wrong:
            client.audio.transcriptions.create(model=model, file=clip, timestamp_granularities=["word"])
        assert wrong.value.code == "unsupported_parameter"
