"""An engine that answers with a script, in the test's own process and on its own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

from engine.config import EngineInfo
from engine.core.request import EngineStats, FinishReason, GenerationRequest, Output, TokenLogprob
from engine.inputs.tokenizer import BYTE_ALPHABET, Tokenizer
from engine.ipc import Abort, Command, Ready, Report, Submit
from engine.server.handle import EngineHandle
from engine.tiny.vocabulary import VOCAB_SIZE, tokenizer_json

CONTEXT = 512
Answer = Callable[[GenerationRequest], Sequence[int]]


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose text tokens are single bytes with their value as id, beside Ming's control tokens."""
    tree = tokenizer_json()
    tree["model"] |= {"vocab": dict(BYTE_ALPHABET), "merges": []}
    return Tokenizer(json.dumps(tree), roles={"eos_token": "<|role_end|>", "pad_token": "<|role_end|>"})


TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.token_id("<|role_end|>")
INFO = EngineInfo(
    max_model_len=CONTEXT,
    vocab_size=VOCAB_SIZE,
    num_blocks=64,
    block_size=16,
    eos_token_ids=(EOS,),
    checkpoint_digest="0" * 64,
    dtype="float32",
    device="cpu",
    tp=1,
    load_s=0.0,
)


def says(text: str | bytes) -> Answer:
    """An engine that gives this text, a byte a token, then its end token."""
    ids = (*(text.encode() if isinstance(text, str) else text), EOS)
    return lambda request: ids


def scored(token: int, num_top: int) -> TokenLogprob:
    """A made-up distribution: the token itself is the second most likely of all."""
    top = [((token + 1) % 256, -0.5), (token, -1.0), *((n, -2.0 - n) for n in range(num_top))]
    return TokenLogprob(token, -1.0, tuple(top[:num_top]))


class FakeEngine:
    """Runs each request as a task of its own, one token a turn of the event loop.

    Attributes:
        requests: all that were submitted, in order.
        aborted: ids that were given up.
        gate: closed, it holds every request after `hold_after` tokens until the test opens it.
    """

    def __init__(self, answer: Answer | None = None, *, hold_after: int | None = None) -> None:
        self.handle = EngineHandle(self._obey)
        self.requests: list[GenerationRequest] = []
        self.aborted: list[int] = []
        self.gate = asyncio.Event()
        self._answer = answer or says("Hello.")
        self._hold_after = hold_after
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._num_tokens = 0

    def start(self) -> None:
        self.handle.receive(Ready(INFO))

    async def until_running(self, count: int = 1) -> None:
        while len(self._tasks) < count:
            await asyncio.sleep(0.001)

    async def until_idle(self) -> None:
        while self._tasks:
            await asyncio.sleep(0.001)

    @property
    def num_running(self) -> int:
        return len(self._tasks)

    def report(self, *outputs: Output) -> None:
        num_running = len(self._tasks)
        self._num_tokens += sum(len(output.tokens) for output in outputs)
        stats = EngineStats(num_running, 0, 64, 64 - num_running, generation_tokens=self._num_tokens)
        self.handle.receive(Report(outputs, stats, len(self.requests)))

    def _obey(self, command: Command) -> None:
        if isinstance(command, Submit):
            for request in command.requests:
                self.requests.append(request)
                self._tasks[request.id] = asyncio.get_running_loop().create_task(self._run(request))
        elif isinstance(command, Abort):
            self.aborted += command.request_ids
            for request_id in command.request_ids:
                if (task := self._tasks.pop(request_id, None)) is not None:
                    task.cancel()
            asyncio.get_running_loop().call_soon(self.report)

    async def _run(self, request: GenerationRequest) -> None:
        """One request to its terminal output, as the scheduler would end it."""
        params = request.sampling
        scores = () if params.prompt_logprobs is None else self._prompt_scores(request)
        if params.max_tokens == 0:
            self._end(Output(request.id, prompt_logprobs=scores, finish=FinishReason.LENGTH))
            return
        for count, token in enumerate(self._tokens(request), start=1):
            if count - 1 == self._hold_after:
                await self.gate.wait()
            await asyncio.sleep(0)
            output = self._output(request, token, count, scores)
            scores = ()
            if output.finish is not None:
                self._end(output)
                return
            self.report(output)

    def _tokens(self, request: GenerationRequest) -> Sequence[int]:
        """The script, without end tokens where they are to be ignored, and repeated as long as needed."""
        script = list(self._answer(request))
        if not request.sampling.eos_token_ids:
            script = [token for token in script if token != EOS]
        return script * (1 + request.sampling.max_tokens // len(script))

    def _output(self, request: GenerationRequest, token: int, count: int, scores: tuple[TokenLogprob, ...]) -> Output:
        params = request.sampling
        finish, stop_id = None, None
        if count > params.min_tokens and token in params.eos_token_ids:
            finish = FinishReason.STOP
        elif count > params.min_tokens and token in params.stop_token_ids:
            finish, stop_id = FinishReason.STOP, token
        elif count == params.max_tokens:
            finish = FinishReason.LENGTH
        logprobs = () if params.logprobs is None else (scored(token, params.logprobs),)
        times = {"queue_s": 0.0, "prefill_s": 0.0} if count == 1 or finish else {}
        return Output(request.id, (token,), logprobs, scores, finish, stop_id, cached_tokens=3, **times)

    def _prompt_scores(self, request: GenerationRequest) -> tuple[TokenLogprob, ...]:
        return tuple(scored(token, request.sampling.prompt_logprobs or 0) for token in request.prompt_ids[1:])

    def _end(self, output: Output) -> None:
        self._tasks.pop(output.request_id, None)
        self.report(output)
