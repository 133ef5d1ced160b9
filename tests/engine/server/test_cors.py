"""Pages of other sites: nothing by default, exact origins where the operator named them."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.server.cors import check_origin
from tests.engine.server.endpoint import chat_body, endpoint, on_loop

CHAT = "/v1/chat/completions"
UI = "https://ui.example"
HEADERS = "authorization,content-type,x-stainless-arch,x-stainless-retry-count"  # OpenAI's client in a browser
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": HEADERS}


@on_loop
async def test_nothing_is_allowed_by_default() -> None:
    async with endpoint() as server:
        async with server.session.options(server.url + CHAT, headers={"Origin": UI} | ASKS) as response:
            assert response.status == 405
        async with server.session.post(server.url + CHAT, json=chat_body(), headers={"Origin": UI}) as response:
            assert response.status == 200
            assert not [name for name in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_named_origin_may_ask_and_read(stream: bool) -> None:
    async with endpoint(cors_origins=(UI,)) as server:
        async with server.session.options(server.url + CHAT, headers={"Origin": UI} | ASKS) as response:
            assert (response.status, response.headers["Access-Control-Allow-Methods"]) == (204, "POST")
            assert response.headers["Access-Control-Allow-Headers"] == HEADERS
        odd = {"Origin": UI} | ASKS | {"Access-Control-Request-Headers": "a(b)"}
        async with server.session.options(server.url + CHAT, headers=odd) as response:
            assert response.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Request-Id"
        body, headers = chat_body(stream=stream), {"Origin": UI}
        async with server.session.post(server.url + CHAT, json=body, headers=headers) as response:
            assert response.headers["Access-Control-Allow-Origin"] == UI
            assert response.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "origin",
    ["https://ui.example.evil", "http://ui.example", "https://ui.example:444", "null", "", "https://UI.example"],
)
@on_loop
async def test_other_origins_may_not(origin: str) -> None:
    async with endpoint(cors_origins=(UI,)) as server:
        async with server.session.options(server.url + CHAT, headers={"Origin": origin} | ASKS) as response:
            assert response.status == 405
        async with server.session.get(server.url + "/health", headers={"Origin": origin}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
            assert response.headers["Vary"] == "Origin"  # a cache must not hand this answer to another page


@on_loop
async def test_preflight_of_an_unknown_path_is_not_found() -> None:
    async with (
        endpoint(cors_origins=(UI,)) as server,
        server.session.options(server.url + "/nothing", headers={"Origin": UI} | ASKS) as response,
    ):
        assert response.status == 404


@pytest.mark.parametrize(
    "text", ["*", "null", "https://ui.example/", "https://ui.example/app", "ui.example", "https://*.x"]
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ConfigError, match="--cors-origin"):
        check_origin(text)


@pytest.mark.parametrize("text", [UI, "http://localhost:3000", "http://[::1]:8080"])
def test_origins(text: str) -> None:
    assert check_origin(text) == text
