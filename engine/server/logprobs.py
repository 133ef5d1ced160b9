"""Log-probabilities of the tokens of one choice, let out together with the text they belong to."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.core.request import TokenLogprob
from engine.inputs.tokenizer import Tokenizer

_LOWEST = -9999.0  # JSON has no infinity; a masked token has this value


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its probability; `raw` are its exact bytes."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One token of the answer, or of an echoed prompt.

    `raw` are the bytes it adds to the text: none for a control token or after the end of a cut text, so that all
    entries joined are the text. `logprob` is None for a first prompt token. `offset` is where it starts in the
    text, in characters.
    """

    text: str
    raw: bytes
    logprob: float | None
    top: tuple[Scored, ...]
    offset: int


class LogprobTrack:
    """Entries of one choice in order; each is held back as long as its text is."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_chars = 0
        self._num_bytes = 0
        self._held: deque[tuple[int, TokenEntry]] = deque()  # (byte position where it starts, entry)

    def add(self, token_id: int, scored: TokenLogprob | None, *, is_shown: bool = True) -> None:
        """The next token; without `is_shown` it is none of the text."""
        raw = self._bytes_of(token_id)
        shown = raw if is_shown else b""
        logprob = None if scored is None else max(scored.logprob, _LOWEST)
        top = tuple(self._scored(*alternative) for alternative in scored.top) if scored else ()
        entry = TokenEntry(self._text_of(token_id), shown, logprob, top, self._num_chars)
        self._held.append((self._num_bytes, entry))
        self._num_bytes += len(shown)
        self._num_chars += len(self._decoder.decode(shown))

    def release(self, num_bytes: int) -> list[TokenEntry]:
        """Entries whose text lies within the first `num_bytes` bytes of the answer, each of them once."""
        released = []
        while self._held and self._held[0][0] + len(self._held[0][1].raw) <= num_bytes:
            released.append(self._held.popleft()[1])
        return released

    def finish(self, num_bytes: int) -> list[TokenEntry]:
        """All that is left, for an answer that ended at `num_bytes`."""
        rest = [_clipped(entry, num_bytes - start) for start, entry in self._held]
        self._held.clear()
        return rest

    def _bytes_of(self, token_id: int) -> bytes:
        return b"" if self._tokenizer is None else self._tokenizer.token_bytes(token_id)

    def _text_of(self, token_id: int) -> str:
        if self._tokenizer is None:
            return f"token_id:{token_id}"
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")

    def _scored(self, token_id: int, logprob: float) -> Scored:
        return Scored(self._text_of(token_id), self._bytes_of(token_id), max(logprob, _LOWEST))


def _clipped(entry: TokenEntry, num_bytes: int) -> TokenEntry:
    if len(entry.raw) <= num_bytes:
        return entry
    return TokenEntry(entry.text, entry.raw[: max(0, num_bytes)], entry.logprob, entry.top, entry.offset)


def entries_of_prompt(track: LogprobTrack, ids: Sequence[int], scored: Sequence[TokenLogprob]) -> None:
    """Add an echoed prompt; its first token has no probability."""
    for position, token_id in enumerate(ids):
        track.add(token_id, scored[position - 1] if position else None)
