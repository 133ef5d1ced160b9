"""What is measured: a server's URL, its model and the dialect of the HTTP API that it speaks.

Servers differ by one row of data here and a branch in `client/wire.py`; sending and timing exist once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from ming_eval.errors import UsageError


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of servers spells the chat API where the families differ.

    `always_modalities`: a server that speaks unasked must be told "text" with every text request.
    `transcript_is_text`: streamed speech brings its words only as `audio.transcript`, not also as content.
    `default_voice`: sent when the request names none; None leaves the choice to the server.
    `pcm_sample_rate_hz`: rate of header-less PCM when the response does not say; None is unknown.
    `api`: "generate" is M*'s own route: a form goes out, lines of JSON come back. "completions" takes raw prompts; no
    dialect has it by itself, it is another way to ask a server that has chats (`for_completions`).
    `says_finish`: replies carry a finish reason; without, the end of the body is all there is.
    `ignore_eos_key`: the field that fixes output lengths, None where there is none. transformers takes a whole
    generation configuration as JSON in a string, in which no token ends an answer.
    `bars_eos`: where lengths are fixed, the token that ends an answer cannot be drawn; elsewhere it is drawn and the
    answer goes on behind it, so that one model gives two texts.
    `keeps_alive`: a connection serves one request after the other. llama.cpp closes it behind each streamed reply, some
    time after the reply is complete and without having said so: what was sent into that is lost.
    `tokenize_key`: the field of POST /tokenize that holds the text.
    `run_against`: the server and version that it was run against; the others, with None, are tested on replies written
    from documentation.
    """

    name: str
    title: str
    ignore_eos_key: Literal["ignore_eos", "generation_config"] | None
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"]
    audio_part: Literal["input_audio", "audio_url"] = "input_audio"
    always_modalities: bool = False
    transcript_is_text: bool = False
    default_voice: str | None = None
    pcm_sample_rate_hz: int | None = None
    api: Literal["chat", "completions", "generate"] = "chat"
    says_finish: bool = True
    bars_eos: bool = False
    keeps_alive: bool = True
    tokenize_key: Literal["prompt", "content"] = "prompt"
    run_against: str | None = None

    @property
    def supports_ignore_eos(self) -> bool:
        """True when output lengths can be fixed."""
        return self.ignore_eos_key is not None

    @property
    def names_model(self) -> bool:
        """True when a request says which model is asked."""
        return self.api != "generate"

    def for_completions(self) -> Dialect:
        """How the same servers spell `/v1/completions`; the newer name of the token limit is known to chats alone.

        Raises:
            UsageError: they have no such route.
        """
        if self.api == "generate":
            raise UsageError(f"the dialect {self.name} has no /v1/completions: leave out --api completions")
        return replace(self, api="completions", max_tokens_key="max_tokens")


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="openai",
            title="OpenAI API",
            ignore_eos_key=None,
            max_tokens_key="max_completion_tokens",
            transcript_is_text=True,
            default_voice="alloy",
            pcm_sample_rate_hz=24_000,
        ),
        Dialect(
            name="ming",
            title="the bundled engine",
            ignore_eos_key="ignore_eos",
            max_tokens_key="max_completion_tokens",
            run_against="the bundled engine",
        ),
        Dialect(
            name="vllm",
            title="vLLM, vLLM-omni",
            ignore_eos_key="ignore_eos",
            max_tokens_key="max_completion_tokens",
            always_modalities=True,
            run_against="vLLM 0.32.0 (its CPU build; speech of vLLM-omni untested)",
        ),
        Dialect(
            name="sglang",
            title="SGLang",
            ignore_eos_key="ignore_eos",
            max_tokens_key="max_tokens",
            audio_part="audio_url",
        ),
        Dialect(
            name="sglang-omni",
            title="SGLang-omni",
            ignore_eos_key=None,  # 0.1.9 takes no notice of ignore_eos in a chat
            max_tokens_key="max_tokens",
            audio_part="audio_url",
        ),
        Dialect(
            name="mstar-native",
            title="M* (its own /generate)",
            ignore_eos_key=None,
            max_tokens_key="max_tokens",
            api="generate",
            says_finish=False,
        ),
        Dialect(
            name="mstar",
            title="M* (its OpenAI routes)",
            ignore_eos_key=None,
            max_tokens_key="max_tokens",
            always_modalities=True,
        ),
        Dialect(
            name="transformers",
            title="transformers serve",
            ignore_eos_key="generation_config",
            max_tokens_key="max_tokens",
            run_against="transformers 5.23.0",
        ),
        Dialect(
            name="llamacpp",
            title="llama.cpp server",
            ignore_eos_key="ignore_eos",
            max_tokens_key="max_tokens",
            bars_eos=True,
            keeps_alive=False,
            tokenize_key="content",
            run_against="llama.cpp in xllamacpp 2026.10.11549",
        ),
    )
}


def find_dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in DIALECTS:
        raise UsageError(f"unknown dialect {name!r}: choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


@dataclass(frozen=True, slots=True)
class Target:
    """One server under test. `base_url` ends in /v1; key and headers stay out of `repr`."""

    name: str
    base_url: str
    model: str | None
    dialect: Dialect
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def at(
        cls,
        url: str,
        *,
        name: str | None = None,
        model: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        api_key: str | None = None,
        dialect: str = "openai",
    ) -> Target:
        """A target from what a user typed; `name` defaults to host and port.

        Raises:
            UsageError: the URL, a header or the dialect cannot be used.
        """
        parts = _split_url(url)
        return cls(
            name=name or _default_name(parts),
            base_url=f"{parts.scheme}://{parts.netloc}{_api_path(parts.path)}",
            model=model,
            dialect=find_dialect(dialect),
            headers=tuple(_checked_header(key, value) for key, value in headers),
            api_key=_checked_key(api_key),
        )

    @property
    def root_url(self) -> str:
        """Where /health, /version and /metrics live."""
        return self.base_url.removesuffix("/v1")

    @property
    def request_url(self) -> str:
        """Where measured requests go."""
        if self.dialect.api == "generate":
            return f"{self.root_url}/generate"
        return f"{self.base_url}/{'completions' if self.dialect.api == 'completions' else 'chat/completions'}"

    def for_completions(self) -> Target:
        """The same server, asked through `/v1/completions`.

        Raises:
            UsageError: it has no such route.
        """
        return replace(self, dialect=self.dialect.for_completions())

    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """The user's headers and, where there is a key, the Authorization header. Holds secrets."""
        if self.api_key is None:
            return self.headers
        return (*self.headers, ("Authorization", f"Bearer {self.api_key}"))


def _split_url(url: str) -> SplitResult:
    if "://" not in url:
        raise UsageError(f"no scheme in URL {url!r}: write http://{url} or https://{url}")
    if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", url):
        raise UsageError(f"URL {url!r} holds a blank, backslash, control or non-ASCII character: percent-encode it")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise UsageError(f"bad URL {url!r}: {exc}") from exc
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"cannot measure {parts.scheme}:// in {url!r}: use http:// or https://")
    if not host:
        raise UsageError(f"no host in URL {url!r}: write something like http://localhost:8000")
    if parts.username is not None:
        raise UsageError(
            f"the URL of {host} holds a user name or password, which would end up in results: leave it out and give "
            "the key with --api-key-env VARIABLE or --header 'Authorization: ...'"
        )
    return parts


def _api_path(path: str) -> str:
    path = path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions")
    path = path.removesuffix("/generate")
    return path if path.endswith("/v1") else f"{path}/v1"


def _default_name(parts: SplitResult) -> str:
    host = (parts.hostname or "").replace(":", "-")  # an IPv6 address as part of a folder name
    return f"{host}-{parts.port}" if parts.port else host


def _checked_header(name: str, value: str) -> tuple[str, str]:
    """A header that cannot break out of its line; the value may be secret, so it is not repeated."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise UsageError(f"bad header name {name!r}: write NAME: VALUE with letters, digits and dashes in the name")
    if not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
        raise UsageError(f"control or non-Latin character in the value of header {name!r}")
    return name, value.strip()


def _checked_key(api_key: str | None) -> str | None:
    if api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise UsageError("the API key is empty or holds blanks or control characters: check the variable it comes from")
    return api_key
