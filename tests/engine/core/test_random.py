"""Random submissions, aborts and steps: whatever happens beside a request, it gets what it would get alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest, MediaInput, Output, SchedulerLimits
from engine.core.scheduler import Scheduler
from tests.engine.core.fakes import FakeRunner, answer_alone, make_media, make_request

BLOCK = 4
MAX_MODEL_LEN = 40
STOPS = (3, 4, 5)
BEGINNINGS = (tuple(range(100, 124)), tuple(range(100, 109)) + tuple(range(300, 315)), (7,) * 24)


@dataclass(frozen=True)
class Submit:
    beginning: int
    num_prompt: int
    ending: int
    media: tuple[MediaInput, ...]
    sampling: dict[str, object]
    tenant: str
    fails_after: int | None

    def request(self, request_id: int) -> GenerationRequest:
        prompt = (*BEGINNINGS[self.beginning], *range(500, 530))[: self.num_prompt]
        prompt = (*prompt[:-1], prompt[-1] + self.ending) if prompt else ()
        media = tuple(item for item in self.media if item.start + item.num_tokens <= len(prompt))
        return make_request(request_id, prompt, media=media, tenant=self.tenant, **self.sampling)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Abort:
    back: int  # counted from the request submitted last


@dataclass(frozen=True)
class Run:
    num_steps: int


@st.composite
def media_strategy(draw: st.DrawFn) -> tuple[MediaInput, ...]:
    items, end = [], 0
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        start = end + draw(st.integers(0, 6))
        num_tokens = draw(st.integers(1, 7))
        items.append(make_media(start, num_tokens, draw(st.sampled_from([b"cat", b"dog"]))))
        end = start + num_tokens
    return tuple(draw(st.permutations(items)))


@st.composite
def submit_strategy(draw: st.DrawFn) -> Submit:
    max_tokens = draw(st.integers(0, 16))
    sampling: dict[str, object] = {
        "max_tokens": max_tokens,
        "min_tokens": draw(st.integers(0, max_tokens)),
        "seed": draw(st.integers(0, 3)),
        "eos_token_ids": draw(st.sampled_from([(), STOPS[:1]])),
        "stop_token_ids": draw(st.sampled_from([(), STOPS[1:]])),
        "logprobs": draw(st.sampled_from([None, 0])),
        "prompt_logprobs": draw(st.sampled_from([None, None, None, 0])),
    }
    return Submit(
        beginning=draw(st.integers(0, len(BEGINNINGS) - 1)),
        num_prompt=draw(st.integers(0, 30) | st.just(50)),
        ending=draw(st.integers(0, 1)),
        media=draw(media_strategy()),
        sampling=sampling,
        tenant=draw(st.sampled_from(["", "a", "b"])),
        fails_after=draw(st.sampled_from([None] * 9 + [0, 2])),
    )


OPERATIONS = st.lists(
    submit_strategy() | submit_strategy() | st.builds(Abort, st.integers(0, 8)) | st.builds(Run, st.integers(1, 8)),
    min_size=1,
    max_size=50,
)


@dataclass
class History:
    """All that came out for one request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[int] = field(default_factory=list)
    prompt_logprobs: list[int] = field(default_factory=list)
    last: Output | None = None

    def add(self, output: Output) -> None:
        assert self.last is None or self.last.finish is None, "news after the terminal output"
        self.last = output
        self.tokens += output.tokens
        self.logprobs += [entry.token for entry in output.logprobs]
        self.prompt_logprobs += [entry.token for entry in output.prompt_logprobs]


class Engine:
    def __init__(self, *, overlap: bool, prefix_cache: bool, num_blocks: int, step_tokens: int) -> None:
        mixed = max(step_tokens // 4, 3) if step_tokens > 8 else None  # both kinds of limits occur
        limits = SchedulerLimits(step_tokens, 3, MAX_MODEL_LEN, mixed)
        self.max_tokens = min(MAX_MODEL_LEN, num_blocks * BLOCK)
        self.fail_after: dict[int, int] = {}
        self.scheduler = Scheduler(limits, BlockManager(num_blocks, BLOCK, enable_prefix_cache=prefix_cache))
        self.runner = FakeRunner(BLOCK, 3, encode_steps=2, encode_waits=2, fail_after=self.fail_after)
        self.loop = EngineLoop(self.scheduler, self.runner, overlap=overlap)
        self.limits = limits
        self.requests: list[GenerationRequest] = []
        self.histories: dict[int, History] = {}
        self.aborted: set[int] = set()

    def apply(self, operation: Submit | Abort | Run) -> None:
        match operation:
            case Submit():
                self.submit(operation)
            case Abort(back) if back < len(self.requests):
                self.loop.abort(len(self.requests) - 1 - back)
                self.aborted.add(len(self.requests) - 1 - back)
            case Run(num_steps):
                for _ in range(num_steps):
                    self.run_once()
        self.scheduler.check()

    def submit(self, operation: Submit) -> None:
        request = operation.request(len(self.requests))
        if operation.fails_after is not None:
            self.fail_after[request.id] = operation.fails_after
        self.requests.append(request)
        self.histories[request.id] = History()
        self.loop.submit(request)

    def run_once(self) -> None:
        outputs = self.loop.run_once()
        self.scheduler.check()
        assert all(count == 1 for count in Counter(output.request_id for output in outputs).values())
        for output in outputs:
            self.histories[output.request_id].add(output)

    def finish(self) -> None:
        for _ in range(3000):
            if not self.loop.has_work:
                return
            self.run_once()
        raise AssertionError("the engine does not come to an end")

    def check_budgets(self) -> None:
        """No step is too large, and none in which a stream draws behind its prompt is larger than streams wait for."""
        for step in self.runner.steps:
            num_tokens = sum(chunk.count for chunk in step.chunks)
            assert num_tokens <= self.limits.step_tokens
            decodes = [
                c for c in step.chunks if c.count == 1 and c.start >= len(self.requests[c.request_id].prompt_ids)
            ]
            if any(chunk.sample for chunk in decodes):
                assert num_tokens <= self.limits.shared_tokens

    def check_history(self, request: GenerationRequest) -> None:
        history = self.histories[request.id]
        assert history.last is not None
        num_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt == 0 or num_prompt + min(max_tokens, 1) > self.max_tokens:
            assert history.last.finish is FinishReason.ERROR
            assert history.tokens == []
            return
        expected = answer_alone(request, self.max_tokens)
        complete = list(expected.tokens)
        assert history.tokens == complete[: len(history.tokens)]
        assert history.logprobs == ([] if request.sampling.logprobs is None else history.tokens)
        match history.last.finish:
            case FinishReason.ABORT:
                assert request.id in self.aborted
            case FinishReason.ERROR:
                assert history.last.error == "out of luck"
                assert len(history.tokens) == self.fail_after[request.id]
            case finish:
                assert (history.tokens, finish) == (complete, expected.finish)
                assert history.last.stop_token_id == expected.stop_token_id
                scored = () if request.sampling.prompt_logprobs is None else request.prompt_ids[1:]
                assert history.prompt_logprobs == list(scored)


SIZES = st.sampled_from([(100, 64), (100, 7), (10, 64), (6, 5)])  # blocks, tokens a step


@settings(deadline=None, max_examples=100)
@given(overlap=st.booleans(), prefix_cache=st.booleans(), size=SIZES, operations=OPERATIONS)
@pytest.mark.slow
def test_each_request_ends_once_with_the_tokens_it_gets_alone(
    overlap: bool, prefix_cache: bool, size: tuple[int, int], operations: list[Submit | Abort | Run]
) -> None:
    run_all(overlap, prefix_cache, *size, operations)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize(("num_blocks", "step_tokens"), [(100, 64), (100, 7), (10, 64), (6, 5)])
@settings(deadline=None, max_examples=60)
@given(operations=OPERATIONS)
def test_the_same_at_length(
    overlap: bool, prefix_cache: bool, num_blocks: int, step_tokens: int, operations: list[Submit | Abort | Run]
) -> None:
    run_all(overlap, prefix_cache, num_blocks, step_tokens, operations)


def run_all(
    overlap: bool, prefix_cache: bool, num_blocks: int, step_tokens: int, operations: list[Submit | Abort | Run]
) -> None:
    engine = Engine(overlap=overlap, prefix_cache=prefix_cache, num_blocks=num_blocks, step_tokens=step_tokens)
    for operation in operations:
        engine.apply(operation)
    engine.finish()
    for request in engine.requests:
        engine.check_history(request)
    engine.check_budgets()
    stats = engine.loop.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, num_blocks)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_the_random_runs_reach_preemption_and_sharing(overlap: bool, prefix_cache: bool) -> None:
    """The conditions that make the test above worth its time do arise."""
    engine = Engine(overlap=overlap, prefix_cache=prefix_cache, num_blocks=10, step_tokens=8)
    sampling: dict[str, object] = {"max_tokens": 14}
    for i in range(12):
        engine.submit(Submit(0, 6 + i, i % 2, (make_media(2, 3),), sampling, "ab"[i % 2], None))
    engine.finish()
    for request in engine.requests:
        engine.check_history(request)
    stats = engine.loop.stats()
    assert stats.preemptions > 0
    assert (stats.prefix_hits > 0) == prefix_cache
