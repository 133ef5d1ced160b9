"""The official OpenAI client: what a program of a user does, once whole and once with many streams at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

_ANSWER: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"yes": {"type": "boolean"}},
            "required": ["yes"],
            "additionalProperties": False,
        },
    },
}


def sync_client(url: str) -> str:
    """Chat, stream, constrained answer, log-probabilities, scoring of a batch."""
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        model = client.models.list().data[0].id
        ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
        whole = client.chat.completions.create(**ask, max_tokens=24, logprobs=True, top_logprobs=5)
        text = whole.choices[0].message.content
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        raw = b"".join(bytes(token.bytes or ()) for token in logprobs.content)
        assert raw.decode("utf-8", "replace") == text
        stream = client.chat.completions.create(**ask, max_tokens=24, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        fixed = client.chat.completions.create(**ask, response_format=_ANSWER)  # type: ignore[call-overload]
        assert isinstance(json.loads(fixed.choices[0].message.content)["yes"], bool)
        prompts = ["One two three", "Four five"]
        scored = client.completions.create(model=model, prompt=prompts, max_tokens=0, echo=True, logprobs=1)
        assert [choice.text for choice in scored.choices] == prompts
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**ask, max_tokens=10**9)
        assert refused.value.code == "invalid_value"
    return f"openai {openai.__version__}"


def async_client(url: str) -> str:
    """Streams side by side, all of which must end with their usage."""
    return asyncio.run(_streams(url))


async def _streams(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=300) as client:
        model = (await client.models.list()).data[0].id

        async def one(number: int) -> int:
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Count to {number}"}],
                max_completion_tokens=32,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[-1].choices == []
            assert chunks[-1].usage is not None
            return chunks[-1].usage.completion_tokens

        counts = await asyncio.gather(*(one(number) for number in range(32)))
    assert all(1 <= count <= 32 for count in counts)
    return f"{len(counts)} streams, {sum(counts)} tokens"
