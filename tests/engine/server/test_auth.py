"""API keys: where they are asked for, and what is done with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.server.auth import KeyRing, is_loopback, read_keys
from tests.engine.server.endpoint import chat_body, endpoint, on_loop

KEYS = KeyRing(["first-key", "second-key"])
BEARER = {"Authorization": "Bearer second-key"}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "second-key",
        "Bearer",
        "Bearer wrong",
        "Bearer second-key2",
        "Basic second-key",
        "Bearer first-key,second-key",
    ],
)
@on_loop
async def test_key_is_needed(header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with endpoint(keys=KEYS) as server:
        for path in ("/v1/models", "/v1/models/ming", "/tokenizer_info"):
            async with server.session.get(server.url + path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                error = (await response.json())["error"]
                assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            status, _ = await server.post(path, {}, **headers)
            assert status == 401
        assert server.engine.requests == []


@on_loop
async def test_of_two_keys_none_is_taken() -> None:
    """A proxy in front may have judged the other one."""
    key = b"Authorization: Bearer second-key\r\n"
    async with endpoint(keys=KEYS) as server:
        for head, status in ((key, b"200"), (key + key, b"401"), (key + b"authorization: Bearer x\r\n", b"401")):
            answer = await server.raw(
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n"
            )
            assert answer.split()[1] == status


@on_loop
async def test_every_key_is_accepted_and_is_a_tenant_of_its_own() -> None:
    async with endpoint(keys=KEYS) as server:
        for key in ("first-key", "second-key", "second-key"):
            status, _ = await server.post("/v1/chat/completions", chat_body(), Authorization=f"bearer {key}")
            assert status == 200
        first, second, again = (request.tenant for request in server.engine.requests)
    assert first != second == again
    assert "key" not in first + second


@on_loop
async def test_open_routes_need_none() -> None:
    async with endpoint(keys=KEYS) as server:
        for path in ("/health", "/version", "/metrics"):
            async with server.session.get(server.url + path) as response:
                assert response.status == 200


@on_loop
async def test_metrics_can_be_guarded() -> None:
    async with endpoint(keys=KEYS, metrics_auth=True) as server:
        for headers, status in (({}, 401), (BEARER, 200)):
            async with server.session.get(server.url + "/metrics", headers=headers) as response:
                assert response.status == status


@pytest.mark.parametrize(
    "path", ["/v1//models", "/v1/./models", "/health/../v1/models", "/%76%31/models", "//v1/models"]
)
@on_loop
async def test_other_spellings_of_a_path_are_no_way_in(path: str) -> None:
    async with endpoint(keys=KEYS) as server:
        answer = await server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"401", b"404")


def test_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\n one \ntwo\n")
    assert read_keys(file) == ["one", "two"]
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent")


def test_keys_are_not_kept() -> None:
    assert "first-key" not in str(vars(KEYS))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
