from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ming_eval.client import probe
from ming_eval.errors import TargetError
from ming_eval.load.identify import identify
from ming_eval.results import Backend
from ming_eval.targets import Target
from tests.fakes import FakeServer


def ask(
    server: FakeServer, *, model: str | None = None, guess_dialect: bool = True
) -> tuple[Target, Backend, list[str]]:
    warnings: list[str] = []

    async def main() -> tuple[Target, Backend]:
        async with server:
            target = Target.at(server.url, name="it", model=model, headers=[("X-Key", "s3cret")])
            return await identify(target, launched=False, guess_dialect=guess_dialect, warn=warnings.append)

    return (*asyncio.run(main()), warnings)


def test_first_listed_model_is_taken_and_described() -> None:
    server = FakeServer(models=("one", "two"))
    target, backend, warnings = ask(server)
    assert target.model == backend.model == "one"
    assert backend.model_card is not None
    assert backend.model_card["max_model_len"] == 4096
    assert (backend.name, backend.url, backend.version) == ("it", f"{server.url}/v1", "fake 1.0")
    assert backend.header_names == ("X-Key",)
    assert not warnings


def test_a_model_that_is_asked_for_wins_and_a_strange_one_is_warned_about() -> None:
    assert ask(FakeServer(models=("one", "two")), model="two")[0].model == "two"
    target, backend, (warning,) = ask(FakeServer(models=("one", "two")), model="three")
    assert target.model == "three"
    assert backend.model_card is None
    assert "'three'" in warning
    assert "one, two" in warning


def test_a_server_without_a_model_list_needs_a_model() -> None:
    with pytest.raises(TargetError, match="404"):
        ask(FakeServer(models_status=404))
    with pytest.raises(TargetError, match=r"--api-key-env VARIABLE .*name one with --model"):
        ask(FakeServer(models_status=403))
    for status in (403, 404):
        assert ask(FakeServer(models_status=status), model="mine")[0].model == "mine"
    with pytest.raises(TargetError, match="--model"):
        ask(FakeServer(models=()))


def test_nobody_listening_is_a_target_error_even_with_a_model() -> None:
    target = Target.at("http://127.0.0.1:1", model="mine")
    with pytest.raises(TargetError, match="connection refused"):
        asyncio.run(identify(target, launched=False, guess_dialect=True, warn=print))


@pytest.mark.parametrize(
    ("owner", "guess", "dialect"),
    [("vllm", True, "vllm"), ("ming-eval", True, "ming"), ("somebody", True, "openai"), ("vllm", False, "openai")],
)
def test_dialect_is_guessed_from_the_owner_of_the_model(
    monkeypatch: pytest.MonkeyPatch, owner: str, guess: bool, dialect: str
) -> None:
    async def cards(_target: Target) -> list[dict[str, Any]]:
        return [{"id": "one", "owned_by": owner}]

    monkeypatch.setattr(probe, "fetch_models", cards)
    target, backend, _ = ask(FakeServer(), guess_dialect=guess)
    assert target.dialect.name == backend.dialect == dialect


def test_a_dialect_that_names_no_model_needs_none() -> None:
    async def main(server: FakeServer) -> Target:
        async with server:
            target = Target.at(server.url, dialect="mstar-native")
            return (await identify(target, launched=False, guess_dialect=False, warn=print))[0]

    assert asyncio.run(main(FakeServer(models_status=404))).model is None
    assert asyncio.run(main(FakeServer(models=()))).model is None
