"""What is asked of a server outside the measurement: health, model cards, version, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ming_eval.client.page import fetch
from ming_eval.client.wire import error_text
from ming_eval.errors import TargetError
from ming_eval.targets import Target

_POLL_S = 0.1
_NO_ACCESS = (401, 403)
_LARGEST_VOCABULARY = 1 << 24  # what is beyond is no vocabulary, and is not listed
_VERSIONS = (("/version", "version"), ("/props", "build_info"), ("/server_info", "version"))


class AccessError(TargetError):
    """The server is there and does not let this client in."""


async def fetch_models(target: Target) -> list[dict[str, Any]]:
    """The server's model cards, each with at least an `id`.

    Raises:
        AccessError: the key is missing or wrong.
        TargetError: nobody listens, or the answer is no list of models.
    """
    url = f"{target.base_url}/models"
    status, body = await _get(target, url)
    if status in _NO_ACCESS:
        hint = "does it take this key?" if target.api_key else "give its key with --api-key-env VARIABLE"
        raise AccessError(f"{url} answers HTTP {status}: {error_text(body)}; {hint}")
    if status != 200:
        raise TargetError(f"{url} answers HTTP {status}: {error_text(body)}")
    cards = _cards(body)
    if cards is None:
        raise TargetError(f"{url} answers no list of models: is this an OpenAI-compatible server?")
    return cards


async def fetch_version(target: Target) -> str | None:
    """What GET /version says, llama.cpp's GET /props or SGLang's GET /server_info; None where there is none.

    Raises:
        TargetError: nobody listens.
    """
    for route, key in _VERSIONS:
        status, body = await _get(target, f"{target.root_url}{route}")
        content = _json(body) if status == 200 else None
        version = content.get(key) if isinstance(content, dict) else None
        if isinstance(version, str):
            return version
    return None


async def fetch_metrics(target: Target) -> str | None:
    """The Prometheus text of GET /metrics, None where there is no such route.

    Raises:
        TargetError: nobody listens.
    """
    status, body = await _get(target, f"{target.root_url}/metrics")
    return body.decode("utf-8", "replace") if status == 200 else None


async def count_tokens(target: Target, text: str) -> int | None:
    """Tokens of `text` without special ones by POST /tokenize, None where there is no such route.

    Raises:
        TargetError: nobody listens.
    """
    question = {"model": target.model, target.dialect.tokenize_key: text, "add_special_tokens": False}
    status, body = await _post(target, f"{target.root_url}/tokenize", question)
    content = _json(body) if status == 200 else None
    if not isinstance(content, dict):
        return None
    count, tokens = content.get("count"), content.get("tokens")
    if isinstance(count, int):
        return count
    return len(tokens) if isinstance(tokens, list) and tokens else None  # llama.cpp lists them and does not count


async def fetch_text_ids(target: Target) -> list[int] | None:
    """The token ids that are text rather than control tokens, by GET /tokenizer_info; None where it does not say.

    Raises:
        TargetError: nobody listens.
    """
    status, body = await _get(target, f"{target.root_url}/tokenizer_info")
    content = _json(body) if status == 200 else None
    if not isinstance(content, dict):
        return None
    size, special = content.get("vocab_size"), content.get("special_token_ids")
    if not isinstance(size, int) or not 0 < size <= _LARGEST_VOCABULARY:
        return None
    if not isinstance(special, list) or not all(isinstance(each, int) for each in special):
        return None
    return sorted(set(range(size)).difference(special))


async def count_prompt_tokens(target: Target, text: str) -> int | None:
    """Prompt tokens of a chat with `text` alone, template included, by the usage of an answer of one token.

    Raises:
        TargetError: nobody listens.
    """
    question = {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        target.dialect.max_tokens_key: 1,
    }
    status, body = await _post(target, f"{target.base_url}/chat/completions", question)
    content = _json(body) if status == 200 else None
    usage = content.get("usage") if isinstance(content, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


async def is_healthy(target: Target) -> bool:
    """True when the server takes work; one without GET /health is judged by its model list."""
    try:
        status, _ = await _get(target, f"{target.root_url}/health")
        if status == 404:
            status, _ = await _get(target, f"{target.base_url}/models")
    except TargetError:
        return False
    return status == 200


async def takes_work(target: Target) -> bool:
    """False while a server that listens again is still getting ready (GET /health answers 5xx), or does not answer."""
    try:
        status, _ = await _get(target, f"{target.root_url}/health")
    except TargetError:
        return False
    return status < 500


async def wait_healthy(target: Target, *, timeout_s: float) -> None:
    """Return as soon as the server takes work.

    Raises:
        TargetError: it does not within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not await is_healthy(target):
        if time.monotonic() >= deadline_s:
            raise TargetError(f"{target.root_url} is not healthy after {timeout_s:g} s: look at the server's log")
        await asyncio.sleep(_POLL_S)


async def _get(target: Target, url: str) -> tuple[int, bytes]:
    page = await fetch(target, "GET", url)
    return page.status, page.body


async def _post(target: Target, url: str, question: Mapping[str, Any]) -> tuple[int, bytes]:
    page = await fetch(target, "POST", url, msgspec.json.encode(question))
    return page.status, page.body


def _json(body: bytes) -> Any:
    """The decoded body, None when it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except ValueError:
        return None


def _cards(body: bytes) -> list[dict[str, Any]] | None:
    content = _json(body)
    cards = content.get("data") if isinstance(content, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
        return None
    return cards
