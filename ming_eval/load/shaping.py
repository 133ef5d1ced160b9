"""Options of the command line -> the load shape, the stop rules and the limits of a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ming_eval.errors import UsageError
from ming_eval.load.conversations import History
from ming_eval.load.lengths import parse_lengths
from ming_eval.load.media import MediaShape
from ming_eval.load.plan import OPEN_SHAPES, Api, LoadPlan, Order, Shape, parse_rates
from ming_eval.load.trace import mean_rate, read_trace
from ming_eval.metrics.slo import check_slos, parse_slos
from ming_eval.types import Task

E = TypeVar("E", bound=StrEnum)

DEFAULT_MAX_IN_FLIGHT = 256
MAX_WORKERS = 1024

_IS_ASKED = "it is what is asked, and every request would ask the same"
_NOT_EXTRA = {
    "model": "name the model with --model",
    "messages": _IS_ASKED,
    "prompt": _IS_ASKED,
    "input": _IS_ASKED,
    "stream": "sweep reads streams and accuracy whole answers, whatever the server sends",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOptions:
    """What was typed; None where nothing was."""

    rate: str | None = None
    arrivals: Shape | None = None
    burstiness: float | None = None
    trace: Path | None = None
    max_in_flight: int | None = None
    order: Order = Order.GIVEN
    duration_s: float | None = None
    stop_error_rate: float | None = None
    until: str | None = None
    rest_s: float = 0.0
    outage_limit_s: float = 30.0
    max_time_s: float | None = None
    nonce: bool = True
    slos: Sequence[str] = ()
    input_tokens: str | None = None
    output_tokens: str | None = None
    tokenizer: Path | None = None
    workers: str = "1"
    extra_body: str | None = None
    tasks: str | None = None
    dataset: str | None = None
    dataset_dir: Path | None = None
    media: MediaShape = field(default_factory=MediaShape)
    turns: str | None = None
    think_s: float = 0.0
    history: History | None = None
    repeats: int = 1
    logprobs: int | None = None
    temperature: float = 0.0
    seed_per_request: bool | None = None
    api: Api = Api.CHAT
    vocabulary: int | None = None


def shape_load(plan: LoadPlan, options: ShapeOptions) -> LoadPlan:
    """`plan` with the load that the options ask for.

    Raises:
        UsageError: options that cannot be read or contradict each other.
        DataError: the trace cannot be read.
    """
    shape = _shape(options)
    workers, cluster = parse_workers(options.workers)
    if shape is Shape.WAVES and (workers != 1 or cluster is not None):
        raise UsageError("--arrivals waves is made by one process: a wave begins when all of the one before has ended")
    _check_lengths(options)
    tasks = _tasks(options)
    _check_workload(options, shape, tasks)
    _check_api(options, tasks)
    plan = replace(
        plan,
        shape=shape,
        order=options.order,
        duration_s=options.duration_s,
        stop_error_rate=options.stop_error_rate,
        until_ci=parse_until(options.until) if options.until is not None else None,
        rest_s=options.rest_s,
        outage_limit_s=options.outage_limit_s,
        max_time_s=options.max_time_s,
        nonce=options.nonce,
        slos=parse_slos(options.slos),
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        tokenizer=None if options.tokenizer is None else str(options.tokenizer),
        extra=parse_extra_body(options.extra_body),
        workers=workers,
        cluster=cluster,
        tasks=tasks,
        dataset=options.dataset,
        dataset_dir=None if options.dataset_dir is None else str(options.dataset_dir),
        media=options.media,
        turns=options.turns,
        think_s=options.think_s,
        history=options.history or History.REPLIES,
        repeats=options.repeats,
        logprobs=options.logprobs,
        api=options.api,
        vocabulary=options.vocabulary,
        temperature=options.temperature,
        seed_per_request=options.temperature > 0 if options.seed_per_request is None else options.seed_per_request,
    )
    if shape in (Shape.CLOSED, Shape.WAVES):
        return plan
    in_flight = options.max_in_flight or DEFAULT_MAX_IN_FLIGHT
    plan = replace(plan, concurrencies=(in_flight,), rates_per_s=parse_rates(options.rate) if options.rate else ())
    if shape is Shape.TRACE:
        assert options.trace is not None
        rows = read_trace(options.trace)
        num_requests = min(len(rows), plan.requests or len(rows))
        rates = mean_rate(rows[:num_requests])
        return replace(plan, trace=str(options.trace), requests=num_requests, rates_per_s=rates)
    return replace(plan, burstiness=options.burstiness or 1.0)


def choose(kind: type[E], option: str, text: str | None) -> E | None:
    """The member that `text` names; None for None.

    Raises:
        UsageError: there is none of that name.
    """
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError as exc:
        raise UsageError(f"unknown {option} {text!r}: choose one of {', '.join(kind)}") from exc


def parse_until(text: str) -> float:
    """The share in `ci=2%`.

    Raises:
        UsageError: the text is something else.
    """
    match = re.fullmatch(r"ci=(\d+(?:\.\d+)?)%", text.replace(" ", ""))
    if match is None or not 0 < float(match[1]) < 100:
        raise UsageError(f"bad --until {text!r}: write ci=2% to stop when mean E2E is known to 2 %")
    return float(match[1]) / 100


def parse_body(text: str | None) -> dict[str, Any]:
    """The fields in `{"top_k": 1}`; none for None.

    Raises:
        UsageError: the text is no JSON object.
    """
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise UsageError(f"bad --extra-body {text!r}: write a JSON object such as '{{\"top_k\": 1}}' ({exc})") from exc


def parse_extra_body(text: str | None) -> dict[str, Any]:
    """The fields in `--extra-body` as it is typed; stored ones may be older than what is refused here.

    Raises:
        UsageError: the text is no JSON object, or has a field without which the request is another one.
    """
    fields = parse_body(text)
    for name, why in _NOT_EXTRA.items():
        if name in fields:
            raise UsageError(f"--extra-body cannot set {name}: {why}")
    return fields


def parse_workers(text: str) -> tuple[int | None, str | None]:
    """Number of processes and Ray cluster in `4`, `ray`, `ray://head:10001` or `8@ray://head:10001`.

    Raises:
        UsageError: the text is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)(?:@(?=.)|$))?(ray(?:://\S+)?)?", text.strip())
    if match is None or not any(match.groups()) or (match[1] and not 1 <= int(match[1]) <= MAX_WORKERS):
        raise UsageError(
            f"bad --workers {text!r}: write a number of processes (4), ray, ray://HOST:PORT, or 8@ray://HOST:PORT"
        )
    return int(match[1]) if match[1] else None, match[2]


def _shape(options: ShapeOptions) -> Shape:
    """The shape that was asked for, or follows from what else was given."""
    shape = options.arrivals or _implied(options)
    needs_rate = shape in OPEN_SHAPES or shape is Shape.RAMP
    if needs_rate and options.rate is None:
        raise UsageError(f"--arrivals {shape} needs --rate, in requests per second")
    if options.rate is not None and not needs_rate:
        raise UsageError(f"--rate belongs to an open loop, not to --arrivals {shape}")
    if (shape is Shape.TRACE) != (options.trace is not None):
        raise UsageError("--arrivals trace and --trace FILE go together")
    if shape is Shape.RAMP and options.duration_s is None:
        raise UsageError("--arrivals ramp needs --duration: how many seconds the rise takes")
    if options.burstiness is not None and shape is not Shape.GAMMA:
        raise UsageError(f"--burstiness belongs to --arrivals gamma, not to {shape}")
    if options.max_in_flight is not None and shape in (Shape.CLOSED, Shape.WAVES):
        raise UsageError("--max-in-flight belongs to an open loop; a closed one has --concurrency")
    return shape


def _check_lengths(options: ShapeOptions) -> None:
    for text, option in ((options.input_tokens, "--input-tokens"), (options.output_tokens, "--output-tokens")):
        if text is not None:
            parse_lengths(text, option)
    if options.tokenizer is not None and options.input_tokens is None:
        raise UsageError("--tokenizer counts the words of --input-tokens, which is not given")


def _tasks(options: ShapeOptions) -> tuple[Task, ...]:
    """The tasks in `I2T,T2S`, each once, in the order of `Task`; without one, what the data set is for."""
    if options.tasks is None:
        if options.dataset is None:
            return (Task.T2T,)
        from ming_eval.load.datasets import default_task

        return (default_task(options.dataset),)
    names = [name.strip().upper() for name in options.tasks.split(",")]
    for name in names:
        if name not in Task.__members__:
            raise UsageError(f"unknown task {name!r} in {options.tasks!r}: choose from {','.join(Task)}")
    return tuple(task for task in Task if task in names)


def _check_workload(options: ShapeOptions, shape: Shape, tasks: Sequence[Task]) -> None:
    has_media = any(task.value[0] != "T" for task in tasks)
    if options.dataset is not None or options.dataset_dir is not None or has_media:
        from ming_eval.load.datasets import check_source

        check_source(tasks, options.dataset, None if options.dataset_dir is None else str(options.dataset_dir))
    check_slos(parse_slos(options.slos), tasks)
    if shape is Shape.TRACE and (has_media or options.turns is not None or options.repeats > 1):
        raise UsageError("--trace replays single text requests, once: leave out --task, --turns and --repeats")
    if options.turns is None:
        if options.think_s or options.history is not None:
            raise UsageError("--think-time and --history belong to conversations: give --turns")
        return
    parse_lengths(options.turns, "--turns")
    if shape is Shape.WAVES:
        raise UsageError("--arrivals waves and --turns do not go together: a wave ends with its slowest request")


def _check_api(options: ShapeOptions, tasks: Sequence[Task]) -> None:
    if options.vocabulary is not None and (options.api is Api.CHAT or options.input_tokens is None):
        raise UsageError("--vocabulary is for prompts in token ids: give --api completions and --input-tokens")
    if options.vocabulary is not None and options.tokenizer is not None:
        raise UsageError("--vocabulary and --tokenizer both say which token ids there are: give one of them")
    if options.api is Api.CHAT:
        return
    if options.dataset is not None or tuple(tasks) != (Task.T2T,):
        raise UsageError("--api completions is text to text: leave out --dataset, and tasks other than T2T")
    for is_given, option in ((options.turns is not None, "--turns"), (options.logprobs is not None, "--logprobs")):
        if is_given:
            raise UsageError(f"{option} is for chats: leave out --api completions")


def _implied(options: ShapeOptions) -> Shape:
    if options.trace is not None:
        return Shape.TRACE
    return Shape.POISSON if options.rate is not None else Shape.CLOSED
