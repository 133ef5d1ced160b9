"""Prompts of a length that is known in tokens: words of which the server's tokenizer makes one token each."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path

import msgspec

from ming_eval.client import probe
from ming_eval.errors import DataError, TargetError, UsageError
from ming_eval.targets import Target

Count = Callable[[str], Awaitable[int]]

_LEAD = "the"  # words are counted behind another one: at the beginning of a text some tokenizers cut them otherwise
_GROUP = 32
_FEWEST_WORDS = 50
_GUESSED_TOKENS_PER_WORD = 1.3
_PROBE_WORDS = (20, 220)  # lengths at which an estimate is calibrated


class LengthSource(StrEnum):
    """What the lengths of synthetic prompts rest on, from exact to estimated."""

    SERVER = "server"  # POST /tokenize
    TOKENIZER = "tokenizer"  # a tokenizer.json on this host
    ESTIMATE = "estimate"  # prompt tokens of two requests of known lengths
    IDS = "ids"  # nothing is counted: prompts are token ids


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words to write prompts with, and how many tokens one of them takes.

    `lead_tokens` is what the first word of every text takes, 0 where texts have no word in common. A tokenizer may cut
    a word otherwise where a text begins, or join it to what a chat template puts in front: one known word settles that.
    """

    words: Sequence[str]
    tokens_per_word: float
    source: LengthSource
    lead_tokens: int = 0

    def text(self, num_tokens: int, rng: random.Random) -> str:
        """As many words as make `num_tokens`; drawn, so that no two texts go on alike."""
        if self.lead_tokens:
            return " ".join([_LEAD, *rng.choices(self.words, k=max(0, num_tokens - self.lead_tokens))])
        return " ".join(rng.choices(self.words, k=max(1, round(num_tokens / self.tokens_per_word))))


def guessed_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """Words of `texts` where no server is asked: for what must look like text and need not have an exact length."""
    return Vocabulary(_words(texts), _GUESSED_TOKENS_PER_WORD, LengthSource.ESTIMATE)


def _words(texts: Iterable[str]) -> list[str]:
    return sorted({word for text in texts for word in re.findall(r"\b[a-z]{3,9}\b", text)})


async def find_vocabulary(target: Target, texts: Iterable[str], tokenizer: Path | None) -> Vocabulary:
    """Words of `texts`, measured by the server's /tokenize, else by `tokenizer`, else by the usage of two requests.

    Raises:
        UsageError: `tokenizer` is given and the package that reads it is not installed.
        DataError: `tokenizer` cannot be read.
        TargetError: nothing of the three can be had.
    """
    words = _words(texts)
    if await probe.count_tokens(target, _LEAD) is not None:
        return await _exact(words, _by_server(target), LengthSource.SERVER)
    if tokenizer is not None:
        return await _exact(words, _by_file(tokenizer), LengthSource.TOKENIZER)
    return await _estimate(target, words)


def _by_server(target: Target) -> Count:
    async def count(text: str) -> int:
        found = await probe.count_tokens(target, text)
        if found is None:
            raise TargetError(f"{target.root_url}/tokenize answers some texts and not others")
        return found

    return count


def _by_file(path: Path) -> Count:
    try:
        tokenizers = import_module("tokenizers")
    except ImportError as exc:
        raise UsageError("--tokenizer needs the package tokenizers: pip install tokenizers") from exc
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json(path))

    async def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


def tokenizer_json(path: Path) -> str:
    """The file's text, looked at first: the package has no error class of its own for a file that is something else.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = msgspec.json.decode(text)
    except (OSError, ValueError) as exc:
        raise DataError(f"cannot read the tokenizer {path}: {exc}") from exc
    if not isinstance(content, dict) or "model" not in content:
        raise DataError(f"{path} is no tokenizer.json: it has no model")
    return text


async def _exact(words: Sequence[str], count: Count, source: LengthSource) -> Vocabulary:
    """The words that are one token each, found group by group."""
    lead = await count(_LEAD)
    single = [
        word
        for start in range(0, len(words), _GROUP)
        for word in await _single_tokens(words[start : start + _GROUP], count, lead)
    ]
    if len(single) < _FEWEST_WORDS:
        raise TargetError(
            f"only {len(single)} common words are one token each by the {source}: leave --input-tokens out"
        )
    return Vocabulary(single, 1.0, source, lead)


async def _single_tokens(words: Sequence[str], count: Count, lead: int) -> list[str]:
    if not words:
        return []
    if await count(" ".join([_LEAD, *words])) - lead == len(words):
        return list(words)
    if len(words) == 1:
        return []
    half = len(words) // 2
    return await _single_tokens(words[:half], count, lead) + await _single_tokens(words[half:], count, lead)


async def _estimate(target: Target, words: Sequence[str]) -> Vocabulary:
    """Tokens per word from the difference of two prompts: what the chat template adds falls out."""
    rng = random.Random("calibration")
    short, long = _PROBE_WORDS
    counts = [await probe.count_prompt_tokens(target, " ".join(rng.choices(words, k=size))) for size in _PROBE_WORDS]
    if None in counts or not counts[0] or not counts[1] or counts[1] <= counts[0]:
        raise TargetError(f"{target.name} has no /tokenize and reports no prompt tokens: give --tokenizer FILE")
    return Vocabulary(words, (counts[1] - counts[0]) / (long - short), LengthSource.ESTIMATE)
