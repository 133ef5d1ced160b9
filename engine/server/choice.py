"""One choice of a request: engine outputs in, pieces of the answer out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from engine.core.request import FinishReason, Output, TokenLogprob
from engine.inputs.detokenizer import Detokenizer
from engine.inputs.tokenizer import Tokenizer
from engine.server.logprobs import LogprobTrack, TokenEntry, entries_of_prompt
from engine.server.plan import Plan
from engine.server.text import NoText, TextStream

Finish = Literal["stop", "length"]


@dataclass(slots=True)
class Delta:
    """What one output adds to a choice: text, or `pcm` of its speech; `finish` is set on the last one."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    entries: list[TokenEntry] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str | int | None = None
    pcm: bytes = b""


class Choice:
    """Turns the outputs of one engine request into deltas; the joined deltas are the whole answer.

    Attributes:
        num_tokens: tokens generated, also those that do not show.
        cached_tokens: prompt tokens that came out of the prefix cache.
        finish: why the choice ended; None while it goes on.
    """

    def __init__(self, index: int, plan: Plan, tokenizer: Tokenizer | None) -> None:
        self.index = index
        self.num_tokens = 0
        self.cached_tokens = 0
        self.finish: Finish | None = None
        self._plan = plan
        self._tokenizer = tokenizer
        self._text = TextStream(Detokenizer(tokenizer) if tokenizer else NoText(), plan.stop, plan.sampling.min_tokens)
        self._track = LogprobTrack(tokenizer) if plan.sampling.logprobs is not None else None
        self._num_bytes = 0  # of text let out; counted for log-probabilities only
        self._prompt_scores: list[TokenLogprob] = []
        self._echoes = plan.echo

    def feed(self, output: Output) -> Delta | None:
        """Take in one output; None when there is nothing to say yet, which is so before the first token."""
        assert self.finish is None, "outputs of a choice that has ended"
        self.cached_tokens = max(self.cached_tokens, output.cached_tokens)
        self._prompt_scores += output.prompt_logprobs
        if not output.tokens and output.finish is None:
            return None
        self.num_tokens += len(output.tokens)
        delta = Delta(self.index)
        delta.text = self._echo() + self._read_tokens(output, delta)
        if output.finish is not None or self._text.matched is not None:
            self._finish(output, delta)
        if self._track is not None:
            delta.entries = self._entries(self._track, delta.text)
        return delta

    def _echo(self) -> str:
        """The prompt's text, once, with its scores put in front of the answer's."""
        if not self._echoes:
            return ""
        self._echoes = False
        ids = self._plan.prompt_of(self.index).ids
        if self._track is not None:
            entries_of_prompt(self._track, ids, self._prompt_scores)
        if self._tokenizer is None:
            return ""
        return b"".join(map(self._tokenizer.token_bytes, ids)).decode("utf-8", "replace")

    def _read_tokens(self, output: Output, delta: Delta) -> str:
        """Text that the tokens let out; tokens after a stop string are left out."""
        pieces = []
        last = len(output.tokens) - 1
        for position, (token, scored) in enumerate(zip_longest(output.tokens, output.logprobs)):
            is_shown = position < last or self._shows_last(output)
            pieces.append(self._text.push(token) if is_shown else "")
            delta.token_ids += (token,)
            if self._track is not None:
                self._track.add(token, scored, is_shown=is_shown and not self._is_control(token))
            if self._text.matched is not None:
                break
        return "".join(pieces)

    def _shows_last(self, output: Output) -> bool:
        """An end token never shows, a stop id only where stop strings do."""
        if output.finish is not FinishReason.STOP:
            return True
        return output.stop_token_id is not None and self._plan.stop.include

    def _is_control(self, token: int) -> bool:
        return self._tokenizer is not None and self._tokenizer.is_special(token)

    def _finish(self, output: Output, delta: Delta) -> None:
        if self._text.matched is None:
            delta.text += self._text.finish()
        if self._text.matched is not None:
            delta.finish, delta.stop_reason = "stop", self._text.matched
        elif output.finish is FinishReason.STOP:
            delta.finish, delta.stop_reason = "stop", output.stop_token_id
        else:
            delta.finish = "length"
        self.finish = delta.finish

    def _entries(self, track: LogprobTrack, text: str) -> list[TokenEntry]:
        """Entries that go with this delta; one that has nothing to show makes no chunk and would lose them."""
        self._num_bytes += len(text.encode())
        if not text and self.finish is None and not self._plan.return_token_ids:
            return []
        return track.release(self._num_bytes) if self.finish is None else track.finish(self._num_bytes)
