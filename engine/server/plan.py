"""A checked request: what the engine is asked to do, and how the answer is to look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from engine.config import EngineInfo, SpeechInfo
from engine.core.request import GenerationRequest, MediaInput, MediaKind, SamplingParams
from engine.errors import InvalidRequest
from engine.inputs.tokenizer import Tokenizer
from engine.server.audio_file import AudioFormat
from engine.server.jsonbody import FieldLog
from engine.server.text import StopRule


@dataclass(frozen=True, slots=True)
class Serving:
    """What requests are checked against; known once the engine is ready.

    `names` are the served model names, the first one being the default. `tokenizer` is None when the server
    takes and gives token ids only. `media_limits` is how many parts of a kind one request may have. `speech` is None
    where there is no talker. `template_kwargs` are names that `chat_template_kwargs` may hold beside `enable_thinking`.
    """

    names: tuple[str, ...]
    info: EngineInfo
    tokenizer: Tokenizer | None
    system_default: str | None
    media_limits: Mapping[MediaKind, int]
    field_log: FieldLog
    speech: SpeechInfo | None = None
    template_kwargs: frozenset[str] = frozenset()

    def need_thinker(self) -> None:
        """For a request about text.

        Raises:
            InvalidRequest: the talker is served alone.
        """
        if self.speech is not None and not self.info.vocab_size:
            message = "this server runs with --speech only: it takes POST /v1/audio/speech and nothing else"
            raise InvalidRequest(message, code="unsupported_parameter")

    def need_tokenizer(self, what: str) -> Tokenizer:
        """The tokenizer, for something that cannot be done without one.

        Raises:
            InvalidRequest: the server runs without it.
        """
        self.need_thinker()
        if self.tokenizer is None:
            raise InvalidRequest(
                f"this server runs with --skip-tokenizer and takes token ids only: {what} is not available",
                code="unsupported_parameter",
            )
        return self.tokenizer

    def need_speech(self, param: str) -> SpeechInfo:
        """The talker, for a request that wants to hear something; `param` is what it asked with.

        Raises:
            InvalidRequest: there is none.
        """
        if self.speech is None:
            message = "this server has no talker: it answers in text only, audio output is not available"
            raise InvalidRequest(message, param=param, code="unsupported_parameter")
        return self.speech


@dataclass(frozen=True, slots=True)
class PromptInput:
    """One prompt in token ids, with its encoded media."""

    ids: tuple[int, ...]
    media: tuple[MediaInput, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeechPlan:
    """How an answer is spoken: `voice` None is the default one, `shows_text` false where audio alone was asked for."""

    voice: str | None
    format: AudioFormat
    sample_rate: int
    shows_text: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about one request; `sampling.seed` is the request's, each choice derives its own.

    `num_samples` is `n`: choices of each prompt. `echo` puts the prompt in front of the answer. `speech` is how the
    answer is to be spoken, None for text alone.
    """

    model: str
    prompts: tuple[PromptInput, ...]
    sampling: SamplingParams
    num_samples: int
    stop: StopRule
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool = False
    return_token_ids: bool = False
    speech: SpeechPlan | None = None

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.num_samples

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    def prompt_of(self, index: int) -> PromptInput:
        """The prompt of a choice: choices are ordered prompt by prompt."""
        return self.prompts[index // self.num_samples]

    def engine_requests(self, new_id: Callable[[], int], tenant: str) -> Iterator[GenerationRequest]:
        """One engine request for each choice, in order of their index."""
        for index in range(self.num_choices):
            prompt = self.prompt_of(index)
            # Equal prompts of one batch get equal seeds: a prompt draws the same tokens alone as in a batch.
            seed = derive_seed(self.sampling.seed, index % self.num_samples)
            yield GenerationRequest(
                new_id(), prompt.ids, replace(self.sampling, seed=seed), media=prompt.media, tenant=tenant
            )


def derive_seed(seed: int, sample: int) -> int:
    """The 63-bit seed of a request's n-th sample."""
    digest = hashlib.blake2b(f"{seed}:{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
