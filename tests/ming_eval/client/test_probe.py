"""Probes over real HTTP."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from ming_eval.client import probe
from ming_eval.errors import TargetError
from ming_eval.targets import Target
from tests.fakes import FakeServer
from tests.ming_eval.client.helpers import run


def test_model_cards() -> None:
    async def play() -> list[str]:
        async with FakeServer(models=("a/b", "c")) as server:
            return [card["id"] for card in await probe.fetch_models(Target.at(server.url, api_key="k"))]

    assert run(play()) == ["a/b", "c"]


def test_a_question_without_a_body_says_nothing_of_one() -> None:
    async def play() -> dict[str, str]:
        async with FakeServer() as server:
            await probe.fetch_models(Target.at(server.url, api_key="k", headers=[("X-Team", "a")]))
            return server.seen[0].headers

    headers = run(play())
    assert headers.keys() & {"content-length", "content-type"} == set()
    assert (headers["authorization"], headers["x-team"], headers["accept-encoding"]) == ("Bearer k", "a", "identity")


def test_a_page_whose_end_is_missing_is_no_page() -> None:
    async def play() -> None:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            writer.close()

        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            await probe.fetch_models(Target.at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))

    with pytest.raises(TargetError, match=r"cannot read http.*/v1/models: the server closed the connection"):
        run(play())


def test_server_without_models_says_so() -> None:
    async def play() -> None:
        async with FakeServer(models_status=404) as server:
            await probe.fetch_models(Target.at(server.url))

    with pytest.raises(TargetError, match=r"/v1/models answers HTTP 404"):
        run(play())


@pytest.mark.parametrize(("key", "hint"), [(None, "--api-key-env"), ("wrong", "does it take this key")])
def test_a_server_with_keys_asks_for_one(key: str | None, hint: str) -> None:
    async def play() -> None:
        async with FakeServer(models_status=401) as server:
            await probe.fetch_models(Target.at(server.url, api_key=key))

    with pytest.raises(probe.AccessError, match=f"/v1/models answers HTTP 401: .*{hint}"):
        run(play())


@pytest.mark.parametrize("body", [[], {"data": {}}, {"data": [{"name": "a"}]}, "models"])
def test_answer_that_is_no_list_of_models(body: object) -> None:
    async def play() -> None:
        async with FakeServer(models_body=body) as server:
            await probe.fetch_models(Target.at(server.url))

    with pytest.raises(TargetError, match="no list of models"):
        run(play())


def test_nobody_there_is_one_line() -> None:
    async def play() -> None:
        async with FakeServer() as server:
            url = server.url
        await probe.fetch_models(Target.at(url))

    with pytest.raises(TargetError, match=r"cannot connect to http://127\.0\.0\.1:\d+/v1/models: connection refused"):
        run(play())


def test_version_and_metrics_are_none_where_there_is_no_such_route() -> None:
    async def play() -> tuple[str | None, str | None]:
        async with FakeServer() as server:
            target = Target.at(server.url)
            return await probe.fetch_version(target), await probe.fetch_metrics(target)

    assert run(play()) == ("fake 1.0", None)


@pytest.mark.parametrize(
    ("path", "content"), [("/props", {"build_info": "b9"}), ("/server_info", {"version": "b9", "launch_command": "x"})]
)
def test_a_version_may_stand_elsewhere(path: str, content: dict[str, str]) -> None:
    """llama.cpp's and SGLang's pages."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(content)

    async def play() -> str | None:
        served = web.Application()
        served.router.add_get(path, answer)
        runner = web.AppRunner(served)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await probe.fetch_version(Target.at(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        finally:
            await runner.cleanup()

    assert run(play()) == "b9"


@pytest.mark.parametrize("dialect", ["ming", "llamacpp"])
def test_tokens_are_counted_or_listed(dialect: str) -> None:
    async def play() -> int | None:
        async with FakeServer(tokenizes=True) as server:
            return await probe.count_tokens(Target.at(server.url, model="m", dialect=dialect), "one two three")

    assert run(play()) == 3


@pytest.mark.slow
def test_wait_healthy_returns_when_the_server_is_ready() -> None:
    async def play() -> int:
        async with FakeServer(health_status=503) as server:
            asyncio.get_running_loop().call_later(0.3, setattr, server, "health_status", 200)
            await probe.wait_healthy(Target.at(server.url), timeout_s=20)
            return server.health_status

    assert run(play()) == 200


def test_server_without_health_is_judged_by_its_models() -> None:
    async def play(models_status: int) -> bool:
        async with FakeServer(health_status=404, models_status=models_status) as server:
            return await probe.is_healthy(Target.at(server.url))

    assert run(play(200))
    assert not run(play(500))


def test_wait_healthy_gives_up() -> None:
    async def play() -> None:
        async with FakeServer(health_status=503) as server:
            await probe.wait_healthy(Target.at(server.url), timeout_s=0.2)

    with pytest.raises(TargetError, match=r"not healthy after 0\.2 s"):
        run(play())
