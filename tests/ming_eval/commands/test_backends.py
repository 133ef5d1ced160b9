"""Options that say which servers are measured: one value for all, or one for each by its name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ming_eval.commands.backends import Servers, choose_servers
from ming_eval.errors import UsageError

TWO = ("a=http://x", "b=http://y")


def chosen(*backends: str, model: Sequence[str] = (), dialect: Sequence[str] = ()) -> Servers:
    return choose_servers(backends, model=model, dialect=dialect, headers=(), key_variable=None, engine_args=())


def test_one_value_is_for_all() -> None:
    servers = chosen(*TWO, model=["org/m=1,b"], dialect=["vllm"])
    assert [target.model for target in servers.targets] == ["org/m=1,b"] * 2
    assert [target.dialect.name for target in servers.targets] == ["vllm"] * 2
    assert not any(map(servers.guesses, servers.targets))


def test_values_by_name_leave_the_others_to_what_the_server_says() -> None:
    servers = chosen(*TWO, model=["a=/models/one,b=two,three"], dialect=["b=transformers"])
    assert [target.model for target in servers.targets] == ["/models/one", "two,three"]
    assert [target.dialect.name for target in servers.targets] == ["openai", "transformers"]
    assert [servers.guesses(target) for target in servers.targets] == [True, False]


def test_every_value_of_a_repeated_option_counts() -> None:
    servers = chosen(*TWO, "c=http://z", dialect=["a=vllm", "openai", "b=sglang"])
    assert [target.dialect.name for target in servers.targets] == ["vllm", "sglang", "openai"]
    assert not any(map(servers.guesses, servers.targets))


@pytest.mark.parametrize("values", [["vllm", "openai"], ["a=vllm", "a=openai"], ["a=vllm,a=openai"], ["a="]])
def test_two_values_where_one_can_count_are_refused(values: list[str]) -> None:
    with pytest.raises(UsageError, match="BACKEND=NAME"):
        chosen(*TWO, dialect=values)


def test_a_url_without_a_name_takes_what_is_for_all() -> None:
    servers = chosen("http://x", model=["a=b"])
    assert servers.targets[0].model == "a=b"
    assert servers.guesses(servers.targets[0])


@pytest.mark.parametrize("words", [{"dialect": ["c=vllm"]}, {"model": ["A=some-model,b=other"]}])
def test_a_value_for_a_backend_that_is_not_there_is_a_slip(words: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"there is no '[cA]', only a, b$"):
        chosen(*TWO, **words)
