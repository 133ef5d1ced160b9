"""Continuous batching: which tokens are computed in the next step, and what a step's result means.

The policy, in one place:

- A step has at most `step_tokens` tokens, and fewer (`mixed_step_tokens`) while a stream decodes, since that waits for
  the whole step. Decodes go first, then prompts under way, in chunks, then waiting requests, preempted ones before
  new ones.
- A request starts when its whole prompt finds blocks and one block for each running request stays free.
  Nothing overtakes a request that does not fit. Tenants take turns.
- A decode that finds no block preempts the youngest running request, which starts over later.
- Steps may be scheduled while others are in flight. All that a step will do to the counters is known
  beforehand, except that a stop token ends the request: what was scheduled beyond it is discarded.
- Blocks are given to others only when no step in flight uses them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from engine.core.blocks import BlockManager
from engine.core.plan import StepPlan
from engine.core.request import (
    Chunk,
    EngineStats,
    ExpertLook,
    FinishReason,
    GenerationRequest,
    Output,
    Sample,
    SchedulerLimits,
    Step,
    StepResult,
    TokenLogprob,
)
from engine.core.state import RequestState, Status
from engine.core.waiting import WaitingQueue


@dataclass(slots=True)
class _Counters:
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    expert_looks: int = 0
    distinct_experts: float = 0.0
    uniform_experts: float = 0.0


class Scheduler:
    """Requests from submission to their one terminal output; not thread-safe.

    At most `step_requests` requests are in the runner's hands at any time, preempted ones included, so it
    can keep their state in a fixed number of slots. `step_encodes` bounds the media started per step:
    with 1, a decode step lies between any two.
    """

    def __init__(self, limits: SchedulerLimits, blocks: BlockManager, *, step_encodes: int = 1) -> None:
        self._limits = limits
        self._blocks = blocks
        self._step_encodes = step_encodes
        self._states: dict[int, RequestState] = {}
        self._waiting = WaitingQueue()
        self._running: list[RequestState] = []  # oldest first
        self._preempted: deque[RequestState] = deque()  # oldest first, all younger than those running
        self._encoding: dict[int, RequestState] = {}  # started, with media not asked for yet; oldest first
        self._in_flight: deque[int] = deque()
        self._dropped: list[int] = []
        self._next_step_id = 0
        self._counters = _Counters()

    @property
    def has_work(self) -> bool:
        """Whether a request is open, or a step in flight still holds blocks of one that ended."""
        return bool(self._states)

    def submit(self, request: GenerationRequest) -> Output | None:
        """Queue a request, or return its terminal output if it can never run."""
        assert request.id not in self._states, f"request id {request.id} is in use"
        problem = self._problem(request)
        if problem is not None:
            return Output(request.id, finish=FinishReason.ERROR, error=problem)
        room = self._max_tokens - len(request.prompt_ids)
        state = RequestState(
            request,
            max_new_tokens=min(request.sampling.max_tokens, room),
            block_size=self._blocks.block_size,
        )
        self._states[request.id] = state
        self._waiting.push(state)
        return None

    def abort(self, request_id: int) -> Output | None:
        """End a request wherever it stands; None if it is not open."""
        state = self._states.get(request_id)
        if state is None or state.status is Status.FINISHED:
            return None
        return self._end(state, FinishReason.ABORT)

    def fail_all(self, message: str) -> tuple[Output, ...]:
        """End every open request with an error; steps in flight count as lost."""
        self._in_flight.clear()
        outputs = []
        for state in list(self._states.values()):
            state.in_flight = 0
            if state.status is Status.FINISHED:
                self._settle(state)
            else:
                outputs.append(self._end(state, FinishReason.ERROR, error=message))
        return tuple(outputs)

    def schedule(self) -> Step | None:
        """Pick what runs next; None if nothing can before a step in flight is committed.

        When all that runs waits for media, and no step is in flight, the step is empty and says `wait`.
        """
        plan = StepPlan(self._limits.step_tokens)
        self._schedule_running(plan)
        self._start_waiting(plan)
        self._schedule_encodes(plan)
        if plan.is_empty and (self._in_flight or not self._running):
            return None
        step = plan.step(self._next_step_id, self._dropped)
        self._dropped.clear()
        self._next_step_id += 1
        self._in_flight.append(step.id)
        return step

    def commit(self, step: Step, result: StepResult) -> tuple[Output, ...]:
        """Take in the result of the oldest step in flight: at most one output per request."""
        oldest = self._in_flight.popleft()
        assert oldest == step.id == result.step_id, "steps are committed in order"
        self._mark_encoded(result.encoded)
        self._count_experts(result.experts)
        failed = dict(result.failed)
        samples = {sample.request_id: sample for sample in result.samples}
        scored = dict(result.prompt_logprobs)
        outputs = []
        for chunk in step.chunks:
            state = self._states[chunk.request_id]
            state.in_flight -= 1
            if state.status is Status.FINISHED:
                self._settle(state)
                continue
            if state.id not in failed:
                output = self._advance(state, chunk, samples.get(state.id), scored.get(state.id, ()))
                if output is not None:
                    outputs.append(output)
            if state.status is Status.PREEMPTED:
                self._settle(state)
        outputs += self._fail(failed)
        return tuple(outputs)

    def set_step_tokens(self, step_tokens: int) -> None:
        """Most tokens of a step from the next one on; for who compares budgets.

        Raises:
            ValueError: more requests are started than could decode in one step.
        """
        limits = replace(self._limits, step_tokens=step_tokens)
        if limits.shared_tokens < self._num_started:
            raise ValueError(f"steps of {step_tokens} tokens are too small: {self._num_started} requests are started")
        self._limits = limits

    def stats(self) -> EngineStats:
        counters = self._counters
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting) + len(self._preempted),
            num_blocks=self._blocks.num_blocks,
            num_free_blocks=self._blocks.num_free,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            preemptions=counters.preemptions,
            expert_looks=counters.expert_looks,
            distinct_experts=counters.distinct_experts,
            uniform_experts=counters.uniform_experts,
        )

    def check(self) -> None:
        """Raise AssertionError unless blocks and queues agree with each other; for tests."""
        self._blocks.check([state.blocks for state in self._states.values()])
        by_status = {status: [s for s in self._states.values() if s.status is status] for status in Status}
        assert len(by_status[Status.WAITING]) == len(self._waiting)
        assert sorted(s.id for s in by_status[Status.RUNNING]) == sorted(s.id for s in self._running)
        assert sorted(s.id for s in by_status[Status.PREEMPTED]) == sorted(s.id for s in self._preempted)
        assert all(s.in_flight > 0 for s in by_status[Status.FINISHED]), "an ended request was not released"
        assert all(not s.blocks for s in by_status[Status.WAITING]), "a waiting request holds blocks"
        assert all(s.in_flight > 0 or not s.blocks for s in self._preempted), "a preempted request kept its blocks"
        assert self._num_started <= self._max_started

    # -- admission -----------------------------------------------------------------------------------------------

    @property
    def _max_tokens(self) -> int:
        """Most tokens one request can have, prompt and answer together."""
        return min(self._limits.max_model_len, self._blocks.capacity_tokens)

    @property
    def _max_started(self) -> int:
        """Each running request can decode in each step."""
        return min(self._limits.step_requests, self._limits.shared_tokens)

    @property
    def _num_started(self) -> int:
        """Requests in the runner's hands: running, preempted, or ended and not released."""
        return len(self._states) - len(self._waiting)

    def _problem(self, request: GenerationRequest) -> str | None:
        num_prompt = len(request.prompt_ids)
        if num_prompt == 0:
            return "The prompt is empty: it needs at least one token."
        if num_prompt + min(request.sampling.max_tokens, 1) <= self._max_tokens:
            return None
        if self._max_tokens == self._limits.max_model_len:
            bound = f"prompt and answer together can have {self._max_tokens}"
        else:
            bound = f"the KV cache has room for {self._max_tokens}, answer included; a larger cache would hold it"
        return f"The prompt has {num_prompt} tokens, but {bound}. Shorten the prompt."

    def _start_waiting(self, plan: StepPlan) -> None:
        while plan.budget > 0 and (state := self._next_to_start()) is not None and self._open(state):
            if state.status is Status.PREEMPTED:
                self._preempted.popleft()
            else:
                self._waiting.pop()
            state.status = Status.RUNNING
            self._running.append(state)
            if state.request.media:
                self._encoding[state.id] = state
            self._schedule_prefill(plan, state)

    def _next_to_start(self) -> RequestState | None:
        if self._preempted:
            state = self._preempted[0]
            return None if state.in_flight else state
        if self._waiting and self._num_started < self._max_started:
            return self._waiting.peek()
        return None

    def _open(self, state: RequestState) -> bool:
        """Give a request blocks for all its tokens, those of an equal beginning out of the prefix cache."""
        spare = len(self._running)  # each of them may need its next block soon
        if self._blocks.num_free <= spare:
            return False
        looks_up = self._blocks.enable_prefix_cache and state.request.sampling.prompt_logprobs is None
        found = self._find_prefix(state) if looks_up else []
        if not self._blocks.open(state.blocks, found, state.num_tokens, spare=spare):
            return False
        state.num_scheduled = len(found) * self._blocks.block_size
        if self._blocks.enable_prefix_cache:
            state.publish_at = state.num_scheduled + self._blocks.block_size
        state.media.restart(state.num_scheduled)
        if looks_up and state.status is Status.WAITING:
            self._count_prefix(state)
        return True

    def _find_prefix(self, state: RequestState) -> list[int]:
        num_blocks = (state.num_tokens - 1) // self._blocks.block_size  # the last token has to be computed
        return self._blocks.find(state.keys.first(num_blocks, state.generated))

    def _count_prefix(self, state: RequestState) -> None:
        state.cached_tokens = state.num_scheduled
        self._counters.prefix_queries += state.num_prompt
        self._counters.prefix_hits += state.num_scheduled

    # -- one step ------------------------------------------------------------------------------------------------

    def _schedule_running(self, plan: StepPlan) -> None:
        """Decodes, then prompts under way; the latter hold all their blocks already."""
        block_size = self._blocks.block_size
        prefills, decodes = [], False
        for state in self._running:  # preemption takes from the end of this list, beyond the one at hand
            if state.num_scheduled >= state.num_target:
                continue  # its last token is on the way
            if not state.is_decoding:
                prefills.append(state)
                continue
            decodes = True
            if state.num_scheduled < len(state.blocks) * block_size or self._grow(state):
                plan.add_chunk(state, 1)
        if decodes:
            plan.limit(self._limits.shared_tokens)
        for state in prefills:
            self._schedule_prefill(plan, state)

    def _schedule_prefill(self, plan: StepPlan, state: RequestState) -> None:
        start = state.num_scheduled
        count = min(state.num_tokens - start, plan.budget, state.media.horizon - start)
        if count > 0:
            plan.add_chunk(state, count)

    def _schedule_encodes(self, plan: StepPlan) -> None:
        for state in list(self._encoding.values()):
            if len(plan.encode) == self._step_encodes:
                return
            index = state.media.ask()
            if index is None:
                del self._encoding[state.id]
            else:
                plan.add_encode(state, index)

    # -- preemption ----------------------------------------------------------------------------------------------

    def _grow(self, state: RequestState) -> bool:
        """Find the next block of a decode, at the expense of younger requests; False if it has to wait."""
        while not self._blocks.reserve(state.blocks, state.num_scheduled + 1):
            if self._running[-1] is state or self._awaits_blocks():
                return False
            self._preempt(self._running.pop())
        return True

    def _awaits_blocks(self) -> bool:
        """Whether blocks come free when the steps in flight are committed."""
        has_ended = self._num_started > len(self._running) + len(self._preempted)
        return has_ended or any(state.in_flight for state in self._preempted)

    def _preempt(self, state: RequestState) -> None:
        state.status = Status.PREEMPTED
        self._preempted.appendleft(state)
        self._counters.preemptions += 1
        self._settle(state)

    def _settle(self, state: RequestState) -> None:
        """Take the blocks of a request that no longer runs, unless a step in flight uses them."""
        if state.in_flight:
            return
        self._blocks.free(state.blocks)
        if state.status is Status.PREEMPTED:
            state.start_over()
            return
        del self._states[state.id]
        if state.sent:
            self._dropped.append(state.id)

    # -- results -------------------------------------------------------------------------------------------------

    def _advance(
        self, state: RequestState, chunk: Chunk, sample: Sample | None, scored: tuple[TokenLogprob, ...]
    ) -> Output | None:
        """Take in one chunk of an open request."""
        end = chunk.start + chunk.count
        if end >= state.publish_at:
            self._publish(state, end)
        if chunk.start < state.num_prompt <= end and not state.generated:
            self._counters.prompt_tokens += state.num_prompt
        if scored:
            scored = _unseen(state, chunk, scored)
        if chunk.sample:
            assert sample is not None, f"step result without a sample for request {state.id}"
            return self._take_token(state, sample, scored)
        if end == state.num_target:  # nothing was to be drawn
            return self._end(state, FinishReason.LENGTH, prompt_logprobs=scored)
        if scored:
            return Output(state.id, prompt_logprobs=scored, cached_tokens=state.cached_tokens)
        return None

    def _take_token(self, state: RequestState, sample: Sample, scored: tuple[TokenLogprob, ...]) -> Output:
        token = sample.token
        state.generated.append(token)
        self._counters.generation_tokens += 1
        finish, stop_token_id = None, None
        if token in state.stop_ids and len(state.generated) > state.request.sampling.min_tokens:
            finish = FinishReason.STOP
            stop_token_id = None if token in state.request.sampling.eos_token_ids else token
        elif len(state.generated) == state.max_new_tokens:
            finish = FinishReason.LENGTH
        logprobs = () if sample.logprob is None else (sample.logprob,)
        if finish is not None:
            self._close(state)
        return Output(state.id, (token,), logprobs, scored, finish, stop_token_id, None, state.cached_tokens)

    def _publish(self, state: RequestState, num_computed: int) -> None:
        block_size = self._blocks.block_size
        while state.publish_at <= num_computed:
            index = state.publish_at // block_size - 1
            self._blocks.publish(state.blocks[index], state.keys.get(index, state.generated))
            state.publish_at += block_size

    def _mark_encoded(self, encoded: tuple[tuple[int, int], ...]) -> None:
        for request_id, index in encoded:
            state = self._states.get(request_id)
            if state is not None:  # it may have ended meanwhile
                state.media.mark_encoded(index)

    def _count_experts(self, look: ExpertLook | None) -> None:
        if look is not None:
            self._counters.expert_looks += 1
            self._counters.distinct_experts += look.distinct
            self._counters.uniform_experts += look.uniform

    def _fail(self, failed: dict[int, str]) -> list[Output]:
        states = [self._states[request_id] for request_id in failed if request_id in self._states]
        return [
            self._end(state, FinishReason.ERROR, error=failed[state.id])
            for state in states
            if state.status is not Status.FINISHED
        ]

    # -- the end -------------------------------------------------------------------------------------------------

    def _end(
        self,
        state: RequestState,
        finish: FinishReason,
        *,
        error: str | None = None,
        prompt_logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Output:
        """End an open request without a further token."""
        self._close(state)
        return Output(
            state.id,
            prompt_logprobs=prompt_logprobs,
            finish=finish,
            error=error,
            cached_tokens=state.cached_tokens,
        )

    def _close(self, state: RequestState) -> None:
        """Take an open request out of its queue; its blocks go now, or when the steps in flight are committed."""
        if state.status is Status.WAITING:
            self._waiting.remove(state)
        elif state.status is Status.RUNNING:
            self._running.remove(state)
        else:
            self._preempted.remove(state)
        self._encoding.pop(state.id, None)
        state.status = Status.FINISHED
        self._settle(state)


def _unseen(state: RequestState, chunk: Chunk, scored: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
    """The prompt log-probabilities that were not put out before a preemption."""
    fresh = scored[max(state.num_prompt_logprobs - chunk.start, 0) :]
    state.num_prompt_logprobs = max(state.num_prompt_logprobs, chunk.start + len(scored))
    return fresh
