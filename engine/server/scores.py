"""Log-probabilities in the two formats that clients read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.server.logprobs import Scored, TokenEntry


class ChatAlternative(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct):
    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[ChatAlternative]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatToken]


class CompletionLogprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def chat_logprobs(entries: Sequence[TokenEntry]) -> ChatLogprobs:
    """One entry a token, alternatives falling."""
    return ChatLogprobs([_chat_token(entry) for entry in entries])


def completion_logprobs(entries: Sequence[TokenEntry]) -> CompletionLogprobs:
    """Four lists of equal length; the first token of a prompt has no score."""
    return CompletionLogprobs(
        tokens=[entry.text for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[_by_text(entry) for entry in entries],
        text_offset=[entry.offset for entry in entries],
    )


def _chat_token(entry: TokenEntry) -> ChatToken:
    return ChatToken(entry.text, entry.logprob, list(entry.raw), [_chat_alternative(scored) for scored in entry.top])


def _chat_alternative(scored: Scored) -> ChatAlternative:
    return ChatAlternative(scored.text, scored.logprob, list(scored.raw))


def _by_text(entry: TokenEntry) -> dict[str, float] | None:
    """Alternatives and the token itself by their text; of several with one text the best counts."""
    if entry.logprob is None:
        return None
    best: dict[str, float] = {}
    for text, logprob in (*((scored.text, scored.logprob) for scored in entry.top), (entry.text, entry.logprob)):
        best[text] = max(logprob, best.get(text, logprob))
    return best
