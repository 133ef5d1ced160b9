"""What reaches the log: little by default, one safe line where the operator asks for more, keys never."""

from __future__ import annotations

import logging

import pytest

from engine.server.auth import KeyRing
from engine.server.logs import logged
from tests.engine.server.endpoint import chat_body, endpoint, on_loop

CHAT = "/v1/chat/completions"


def test_client_strings_are_escaped_and_cut() -> None:
    assert logged("a\nb\x1b[31m\u202e") == '"a\\nb\\u001b[31m\\u202e"'
    assert logged(b"\xff{") == '"\\ufffd{"'
    assert logged("x" * 300) == '"' + "x" * 200 + '..."'


@pytest.mark.parametrize("is_on", [False, True])
@on_loop
async def test_prompts_are_logged_on_demand_and_keys_never(is_on: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with endpoint(log_requests=is_on, keys=KeyRing(["key-123"])) as server:
        headers = {"Authorization": "Bearer key-123", "X-Request-Id": "mine"}
        status, _ = await server.post(CHAT, chat_body("my\nsecret", unknown_key_456=1), **headers)
        assert status == 200
        await server.post(CHAT, chat_body("my\nsecret"), Authorization="Bearer wrong-789")
    text = caplog.text
    assert ("secret" in text) is is_on
    assert "key-123" not in text
    assert "wrong-789" not in text
    if is_on:
        assert 'request mine: POST "/v1/chat/completions": 200 after' in text
        assert not [record for record in caplog.records if "\n" in record.getMessage()]
