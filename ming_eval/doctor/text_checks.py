"""Looks at chat with text: whole and streamed replies, usage, token limits, `ignore_eos`, repetition."""

from __future__ import annotations

from collections.abc import Iterator

from ming_eval.doctor.asking import Answer, Kept, Questioner, question
from ming_eval.doctor.diagnosis import Finding, Status
from ming_eval.doctor.stream import Traits
from ming_eval.types import EventKind

_LONG = 48
_FEW = 3
_GATHERED = 1.5  # events that arrive at once
_NO_LATENCY = "TTFT, TPOT and ITL: only the time of whole replies is known"


async def check_whole(questioner: Questioner) -> tuple[Finding, ...]:
    """A reply that is not streamed."""
    answer = await questioner.ask(question(stream=False))
    if not answer.is_good or answer.traits is None:
        return (Finding("chat, whole reply", Status.FAILED, answer.reason),)
    reason = answer.traits.finish_reason
    return (Finding("chat, whole reply", Status.OK, f"finish_reason {reason}" if reason else "no finish_reason"),)


async def check_stream(questioner: Questioner) -> tuple[tuple[Finding, ...], Answer]:
    """A streamed reply, in everything that can be seen of one; and the reply."""
    answer = await questioner.ask(question())
    traits = answer.traits
    if not answer.is_good or traits is None:
        costs = "anything: every request of a sweep would fail"
        return (Finding("chat, streamed", Status.FAILED, answer.reason, costs),), answer
    return (_streaming(traits), *_ending(questioner, traits), *_counting(traits), _oddities(traits)), answer


def would_count(answer: Answer, *, says_finish: bool) -> bool:
    """True when a run would take this reply as good."""
    traits = answer.traits
    return answer.is_good and traits is not None and (traits.finish_reason is not None or not says_finish)


def _streaming(traits: Traits) -> Finding:
    num, arrivals = len(traits.outputs), len({event.time_s for event in traits.outputs})
    detail = f"{num} events with output in {arrivals} arrivals"
    if not traits.is_sse:
        return Finding(
            "chat, streamed", Status.MISSING, "the reply came whole although a stream was asked", _NO_LATENCY
        )
    if traits.is_at_once:
        costs = "TTFT, TPOT and ITL: something (a proxy, a busy server) holds the stream back until its end"
        return Finding("chat, streamed", Status.ODD, f"{detail}: all at once", costs)
    if traits.events_per_arrival > _GATHERED:
        costs = "the gap of each single token: events are gathered (by a proxy, or a busy server), ITL is of arrivals"
        return Finding("chat, streamed", Status.ODD, f"{detail}: gathered on the way", costs)
    return Finding("chat, streamed", Status.OK, detail)


def _ending(questioner: Questioner, traits: Traits) -> Iterator[Finding]:
    if traits.finish_reason is not None:
        yield Finding("finish reason", Status.OK, traits.finish_reason)
    elif questioner.target.dialect.says_finish:
        costs = "anything: a reply without finish_reason counts as failed"
        yield Finding("finish reason", Status.MISSING, "none came", costs)


def _counting(traits: Traits) -> Iterator[Finding]:
    """Usage in the stream, tokens per event, cached tokens."""
    tokens = traits.num_tokens
    if not traits.num_usages:
        costs = "token counts of the server: tokens are counted as events, and runs with usage do not compare with it"
        yield Finding("usage in a stream", Status.MISSING, "none although include_usage was asked", costs)
        return
    if tokens is None:
        costs = "token counts of the server: it reports 0, tokens are counted as events"
        yield Finding("usage in a stream", Status.ODD, "it counts no output tokens", costs)
        return
    place = "at the end" if traits.num_usages == 1 else f"in {traits.num_usages} chunks"
    yield Finding("usage in a stream", Status.OK, f"{tokens} output tokens, {place}")
    ratio = traits.tokens_per_event or 1.0
    if ratio > 1.2:
        costs = "the gap of each single token: several come in one event, and ITL spreads them"
        yield Finding("tokens per event", Status.ODD, f"{ratio:.2f}", costs)
    else:
        yield Finding("tokens per event", Status.OK, f"{ratio:.2f}")
    usage = next(event.usage for event in reversed(traits.events) if event.usage is not None)
    if usage.cached_tokens is None:
        costs = (
            "prefix-cache hits of a single request: only /metrics or a falling TTFT betrays a warm cache (vLLM counts "
            "them when started with --enable-prompt-tokens-details, SGLang with --enable-cache-report)"
        )
        yield Finding("cached tokens in usage", Status.MISSING, "prompt_tokens_details has none", costs)
    else:
        yield Finding("cached tokens in usage", Status.OK, f"{usage.cached_tokens} of {usage.prompt_tokens}")


def _oddities(traits: Traits) -> Finding:
    unique = list(dict.fromkeys(traits.oddities))
    detail = "; ".join(unique) if unique else "nothing odd"
    return Finding("form of the stream", Status.ODD if unique else Status.OK, detail)


async def check_connection(questioner: Questioner) -> tuple[Finding, ...]:
    """Whether a connection serves more than one request."""
    match await questioner.keeps_connection():
        case Kept.YES:
            return (Finding("connection", Status.OK, "kept for the next request"),)
        case Kept.NO:
            return (Finding("connection", Status.OK, "a new one for each request"),)
        case Kept.SAID_SO:
            costs = "requests behind the first of a connection, which fail: give --header 'Connection: close'"
            detail = "closed behind a streamed reply that says it is kept"
            return (Finding("connection", Status.ODD, detail, costs),)
        case None:
            return ()


async def check_limits(questioner: Questioner) -> tuple[Finding, ...]:
    """Whether the dialect's token limit is honoured, and whether lengths can be fixed."""
    dialect = questioner.target.dialect
    key = "max_output_tokens" if dialect.api == "generate" else dialect.max_tokens_key
    answer = await questioner.ask(question(max_tokens=_FEW))
    found = [_limit(answer, key)]
    if not dialect.supports_ignore_eos:
        costs = "fixed output lengths: answers end where the model ends them (compare with --no-ignore-eos)"
        return (*found, Finding("ignore_eos", Status.MISSING, "not in this dialect", costs))
    answer = await questioner.ask(question("Say yes.", max_tokens=_LONG, ignore_eos=True))
    return (*found, _fixed_length(answer))


def _limit(answer: Answer, key: str) -> Finding:
    if not answer.is_good or answer.traits is None:
        return Finding(key, Status.FAILED, answer.reason)
    tokens = answer.traits.num_tokens or len(answer.traits.outputs)
    if tokens > _FEW:
        costs = f"output lengths: {key} is not honoured"
        return Finding(key, Status.ODD, f"{tokens} tokens came where {_FEW} were allowed", costs)
    return Finding(key, Status.OK, f"{tokens} of at most {_FEW} tokens came")


def _fixed_length(answer: Answer) -> Finding:
    if not answer.is_good or answer.traits is None:
        costs = "fixed output lengths: run with --no-ignore-eos"
        return Finding("ignore_eos", Status.FAILED, answer.reason, costs)
    tokens, reason = answer.traits.num_tokens, answer.traits.finish_reason
    if reason == "length" and tokens in (None, _LONG):
        return Finding("ignore_eos", Status.OK, f"exactly {_LONG} tokens, finish_reason length")
    costs = "fixed output lengths: ignore_eos is accepted and not honoured"
    return Finding("ignore_eos", Status.ODD, f"{tokens} of {_LONG} tokens, finish_reason {reason}", costs)


async def check_extras(questioner: Questioner) -> tuple[Finding, ...]:
    """Usage with every chunk, logprobs, the same answer twice."""
    if questioner.target.dialect.api == "generate":
        return (await _repeats(questioner),)
    usage = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    continuous = await questioner.ask(question(extra=usage))
    probable = await questioner.ask(question(max_tokens=4, stream=False, extra={"logprobs": True, "top_logprobs": 1}))
    return (_continuous(continuous), _logprobs(probable), await _repeats(questioner))


def _continuous(answer: Answer) -> Finding:
    if answer.is_good and answer.traits is not None and answer.traits.num_usages > 1:
        return Finding("usage with every chunk", Status.OK, f"in {answer.traits.num_usages} chunks")
    return Finding("usage with every chunk", Status.MISSING, "continuous_usage_stats changes nothing")


def _logprobs(answer: Answer) -> Finding:
    costs = "how near two systems are where their texts differ: agreement goes by the texts alone"
    if not answer.is_good or answer.page is None:
        return Finding("logprobs", Status.FAILED, answer.reason, costs)
    if b'"top_logprobs"' in answer.page.body:
        return Finding("logprobs", Status.OK, "with alternatives")
    return Finding("logprobs", Status.MISSING, "asked for, and none came", costs)


async def _repeats(questioner: Questioner) -> Finding:
    """Two answers at temperature 0 and one seed."""
    texts = [_text(await questioner.ask(question(seed=1, stream=False))) for _ in range(2)]
    if None in texts:
        return Finding("same answer twice", Status.FAILED, "no answer")
    if texts[0] == texts[1]:
        return Finding("same answer twice", Status.OK, "at temperature 0")
    return Finding("same answer twice", Status.ODD, "two answers at temperature 0 differ", "agreement of texts")


def _text(answer: Answer) -> str | None:
    if answer.traits is None or not answer.is_good:
        return None
    return "".join(event.text for event in answer.traits.events if event.kind in (EventKind.TEXT, EventKind.REASONING))
