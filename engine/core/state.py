"""What the scheduler knows about one request."""

from __future__ import annotations

import sys
from enum import Enum, auto

from engine.core.media import MediaProgress
from engine.core.prefix import PrefixKeys
from engine.core.request import GenerationRequest


class Status(Enum):
    WAITING = auto()  # never started
    RUNNING = auto()
    PREEMPTED = auto()  # to be started over; its blocks go once no step in flight uses them
    FINISHED = auto()  # its terminal output is out; kept while a step in flight uses its blocks


class RequestState:
    """Counters of one request: tokens known, tokens computed, and where the latter are.

    Steps in flight count as done: `num_tokens` includes sampled tokens whose value is still in the runner,
    `num_scheduled` includes positions that a step in flight computes. `generated` has the values that came
    back. Prefill, chunked prefill, recomputation and decode all mean letting `num_scheduled` catch up.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "generated",
        "id",
        "in_flight",
        "keys",
        "max_new_tokens",
        "media",
        "num_prompt",
        "num_prompt_logprobs",
        "num_scheduled",
        "num_sent_blocks",
        "num_target",
        "num_tokens",
        "publish_at",
        "request",
        "sent",
        "status",
        "stop_ids",
    )

    def __init__(self, request: GenerationRequest, *, max_new_tokens: int, block_size: int) -> None:
        sampling = request.sampling
        self.request = request
        self.id = request.id
        self.status = Status.WAITING
        self.sent = False  # the runner has the request
        self.num_prompt = len(request.prompt_ids)
        self.max_new_tokens = max_new_tokens
        # The last token drawn is not computed; with nothing to draw the prompt alone is.
        self.num_target = self.num_prompt + max(max_new_tokens - 1, 0)
        self.stop_ids = frozenset(sampling.eos_token_ids) | frozenset(sampling.stop_token_ids)
        self.generated: list[int] = []
        self.num_tokens = self.num_prompt
        self.in_flight = 0  # steps under way with a chunk of this request
        self.media = MediaProgress(request.media)
        self.keys = PrefixKeys(request, block_size)
        self.blocks: list[int] = []
        self.cached_tokens = 0  # prompt tokens found in the prefix cache when it was first started
        self.num_prompt_logprobs = 0  # already put out; a recomputed prompt scores again
        self.start_over()

    def start_over(self) -> None:
        """Nothing is computed and no block is held any more."""
        self.num_scheduled = 0
        self.num_sent_blocks = 0
        self.publish_at = sys.maxsize

    @property
    def is_decoding(self) -> bool:
        """Whether all that is left to compute is the token drawn last."""
        return self.num_scheduled == self.num_tokens - 1 and self.num_scheduled >= self.num_prompt
