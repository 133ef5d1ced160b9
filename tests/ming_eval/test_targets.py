"""Targets: what users type, what must not leak."""

from __future__ import annotations

import pytest

from ming_eval.errors import UsageError
from ming_eval.targets import DIALECTS, Target, find_dialect


@pytest.mark.parametrize(
    ("typed", "base_url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1?key=1#top", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/completions", "http://localhost:8000/v1"),
        ("https://example.org/openai/v1", "https://example.org/openai/v1"),
        ("https://example.org/openai", "https://example.org/openai/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_base_url_is_normalised(typed: str, base_url: str) -> None:
    assert Target.at(typed).base_url == base_url


def test_root_url_is_where_health_lives() -> None:
    assert Target.at("https://example.org/openai/v1/").root_url == "https://example.org/openai"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("ftp://example.org", "http"),
        ("http://", "host"),
        ("http://host:port", "http://host:port"),
        ("http://host:99999", "99999"),
        ("http://ho st", "percent-encode"),
        ("http://host\r\nX-Evil: 1", "percent-encode"),
        ("http://host\\evil", "percent-encode"),
        ("http://[::1", "::1"),
        ("", "scheme"),
    ],
)
def test_bad_url_names_the_way_out(typed: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint.replace("[", r"\[")):
        Target.at(typed)


def test_user_name_in_url_is_refused_without_repeating_the_password() -> None:
    with pytest.raises(UsageError) as error:
        Target.at("http://me:hunter2@example.org")
    assert "hunter2" not in str(error.value)


def test_name_defaults_to_host_and_port() -> None:
    assert Target.at("http://localhost:8000").name == "localhost-8000"
    assert Target.at("https://example.org/v1").name == "example.org"
    assert Target.at("http://[::1]:8000").name == "--1-8000"
    assert Target.at("http://localhost:8000", name="mine").name == "mine"


def test_secrets_stay_out_of_repr() -> None:
    target = Target.at("http://host", api_key="sk-secret", headers=[("X-Key", "also-secret")])
    assert "secret" not in repr(target)
    assert target.all_headers() == (("X-Key", "also-secret"), ("Authorization", "Bearer sk-secret"))


@pytest.mark.parametrize("header", [("X Key", "v"), ("X-Key", "a\r\nX-Evil: 1"), ("", "v"), ("X-Key", "snow ☃")])
def test_header_that_breaks_its_line_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="header"):
        Target.at("http://host", headers=[header])


@pytest.mark.parametrize("key", ["", "two words", "line\n"])
def test_bad_key_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        Target.at("http://host", api_key=key)


def test_unknown_dialect_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="openai, ming, vllm, sglang"):
        find_dialect("gguf")
    assert find_dialect("vllm") is DIALECTS["vllm"]


def test_completions_are_another_route_of_a_server_that_has_chats() -> None:
    asked = Target.at("http://a/v1", dialect="vllm").for_completions()
    assert asked.request_url == "http://a/v1/completions"
    assert (asked.dialect.name, asked.dialect.max_tokens_key, asked.dialect.names_model) == ("vllm", "max_tokens", True)
    assert DIALECTS["vllm"].api == "chat"
    with pytest.raises(UsageError, match="mstar-native has no /v1/completions"):
        Target.at("http://a", dialect="mstar-native").for_completions()
