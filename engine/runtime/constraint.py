"""Which tokens may come next in answers that must follow a schema.

The mask of a token depends on the one before it, which may still be on the device when the next step is launched. So
a drawn token is copied to the host at once, behind its own step, and waited for only when the forward pass that needs
the mask has been launched: the mask is made on the host while the device is at work on that pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.core.request import GenerationRequest
from engine.grammar import GrammarCompiler, GrammarError

if TYPE_CHECKING:
    import llguidance


class Constraint:
    """One answer and its schema. It goes on over preemption, as a token is drawn only once.

    Attributes:
        error: why the answer cannot go on, for the operator.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self.error: str | None = None
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._arriving: tuple[Tensor, torch.cuda.Event | None] | None = None

    def note(self, token: Tensor) -> None:
        """Take a drawn token (int64 scalar on the device), without waiting for it."""
        if token.device.type != "cuda":
            self._arriving = (token, None)
            return
        host = torch.empty((), dtype=token.dtype, pin_memory=True)
        host.copy_(token, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._arriving = (host, event)

    def allowed(self) -> Tensor | None:
        """Bool [V] on the host, waiting for the last token; None where everything goes: behind the end, or on error."""
        self._catch_up()
        if self.error is not None or self._is_over():
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little")
        if self._matcher.is_error() or not mask.any():
            self.error = self._matcher.get_error() or "no token may follow"
            return None
        return torch.from_numpy(mask).bool()

    def _catch_up(self) -> None:
        if self._arriving is None:
            return
        token, event = self._arriving
        self._arriving = None
        if event is not None:
            event.synchronize()
        if self.error is None and not self._is_over() and not self._matcher.consume_token(int(token)):
            self.error = self._matcher.get_error()

    def _is_over(self) -> bool:
        """An end token was drawn. A step launched before that was known may still ask for one more mask."""
        return self._matcher.is_stopped() and self._matcher.stop_reason() == "EndOfSentence"


class Constraints:
    """Makes the constraints of a rank's requests; `compiler` is None where the library or the tokenizer is missing."""

    def __init__(self, compiler: GrammarCompiler | None) -> None:
        self._compiler = compiler
        self._refused: list[tuple[int, str]] = []

    def prepare(self, request: GenerationRequest) -> Callable[[], None] | None:
        """Work for another thread before `request` is scheduled, None where there is none: a large schema takes
        hundreds of milliseconds, in which the requests that run would stand still."""
        schema, compiler = request.sampling.json_schema, self._compiler
        if schema is None or compiler is None or compiler.knows(schema):
            return None

        def compile_ahead() -> None:
            with suppress(GrammarError):  # found again, and reported, when the request starts
                compiler.matcher(schema)

        return compile_ahead

    def start(self, request: GenerationRequest) -> Constraint | None:
        """The constraint of a new request, None for free text."""
        schema = request.sampling.json_schema
        if schema is None:
            return None
        try:
            if self._compiler is None:
                raise GrammarError("constrained decoding is not available in this engine")
            return Constraint(self._compiler.matcher(schema), self._compiler.vocab_size)
        except GrammarError as error:
            self._refused.append((request.id, str(error)))
            return None

    def masks(self, ids: Sequence[int], rows: Sequence[Constraint | None], device: torch.device) -> list[Tensor | None]:
        """What each row may draw, bool [V] on `device`; None for all. A row that cannot go on is in `take_failed`."""
        masks = []
        for request_id, row in zip(ids, rows, strict=True):
            mask = None if row is None else row.allowed()
            if row is not None and row.error is not None:
                self._refused.append((request_id, row.error))
            masks.append(None if mask is None else mask.to(device, non_blocking=True))
        return masks

    def take_failed(self) -> tuple[tuple[int, str], ...]:
        """Requests that cannot go on, with the reason, each once or more often."""
        failed, self._refused = tuple(self._refused), []
        return failed
