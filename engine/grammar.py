"""Answers that must be JSON of a given form: schemas to grammars over one tokenizer, by llguidance (an optional extra).

Compiled here and nowhere else, so that the check before a request is let in and the engine that masks its tokens
cannot disagree. A grammar is a pure function of schema and tokens: every rank of an engine computes the same masks.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    import llguidance

ANY_OBJECT = '{"type":"object"}'  # what `json_object` asks for
INSTALL_HINT = "pip install 'ming-eval[structured]'"

_CACHED = 256
# Between two parts of the JSON. Without a bound a model may write blanks until its tokens are used up.
_WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,32}"
_MAX_ITEMS_IN_ROW = 10_000  # an object of 1,000 optional properties needs 4,007


class GrammarError(EngineError):
    """A schema that cannot be enforced; the text is the library's and not for clients."""


def is_available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("llguidance") is not None


class GrammarCompiler:
    """Schemas to matchers, in any thread: the library lets others run while it compiles."""

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`tokenizer_json` is the text of a `tokenizer.json`, `vocab_size` the width of the model's logits.

        Raises:
            GrammarError: the two do not go together.
        """
        import llguidance

        self.vocab_size = vocab_size
        self._library = llguidance
        try:
            self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=list(eos_token_ids))
        except ValueError as error:
            raise GrammarError(str(error)) from None
        self._limits = llguidance.LLParserLimits(max_items_in_row=_MAX_ITEMS_IN_ROW, verbose_errors=False)
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = Lock()

    def matcher(self, schema: str) -> llguidance.LLMatcher:
        """A matcher at the start of an answer; up to two seconds for a schema that was not asked for lately.

        Raises:
            GrammarError: the schema cannot be enforced.
        """
        with self._lock:
            found = self._compiled.get(schema)
        found = found or self._compile(schema)
        with self._lock:
            self._compiled[schema] = found
            self._compiled.move_to_end(schema)
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return found.deep_copy()

    def knows(self, schema: str) -> bool:
        """Whether `matcher` answers at once."""
        with self._lock:
            return schema in self._compiled

    def probe(self, schema: str) -> None:
        """Compile a schema and take its first steps, where most of the work is.

        Raises:
            GrammarError: the schema cannot be enforced.
        """
        matcher = self.matcher(schema)
        for _ in range(4):
            token = _first_allowed(matcher.compute_bitmask())
            if token is None or not matcher.consume_token(token) or matcher.is_stopped():
                break
        if matcher.is_error():
            raise GrammarError(matcher.get_error())

    def _compile(self, schema: str) -> llguidance.LLMatcher:
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": _WHITE_SPACE}
            )
        except ValueError as error:
            raise GrammarError(str(error)) from None
        matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return matcher


def _first_allowed(bits: bytes) -> int | None:
    for index, byte in enumerate(bits):
        if byte:
            return 8 * index + (byte & -byte).bit_length() - 1
    return None
