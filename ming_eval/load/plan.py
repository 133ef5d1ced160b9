"""What one sweep will do: points, load shape, lengths, seed; from the command line, stored in the manifest."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ming_eval.errors import UsageError
from ming_eval.load.conversations import History, Layout, lay_out
from ming_eval.load.lengths import parse_lengths
from ming_eval.load.media import MediaShape
from ming_eval.types import Phase, RequestRecord, Task

MAX_CONCURRENCY = 65_536  # more connections than one address has ports
MAX_RATE_PER_S = 100_000.0
_CAP_WAVES = 1_000  # requests per slot at which a point ends that is to stop by another rule
_TRACE_WARMUP = 16
_OPEN_LOOP_S = 30.0  # of an open loop that is limited by nothing else


class Shape(StrEnum):
    """What decides when requests are sent."""

    CLOSED = "closed"  # a number of users, each with one request at a time
    WAVES = "waves"  # as many at once, the next wave when all of them have ended
    CONSTANT = "constant"  # open loops: a rate, whatever the server does
    POISSON = "poisson"
    GAMMA = "gamma"
    RAMP = "ramp"
    TRACE = "trace"


OPEN_SHAPES = frozenset({Shape.CONSTANT, Shape.POISSON, Shape.GAMMA})


class Api(StrEnum):
    """Through which route requests go. `completions` takes raw prompts, without a chat template."""

    CHAT = "chat"
    COMPLETIONS = "completions"


class Order(StrEnum):
    """In which order the points are visited. `interleaved` takes the lowest, the highest, the second lowest, ..."""

    GIVEN = "given"
    RANDOM = "random"
    INTERLEAVED = "interleaved"


@dataclass(frozen=True, slots=True)
class Level:
    """The load of one point: requests in flight, and for an open loop the rate at which they come; and of what kind.

    In an open loop `concurrency` is only the most that may be in flight.
    """

    concurrency: int
    rate_per_s: float | None = None
    task: Task = Task.T2T

    @property
    def label(self) -> str:
        """`c8` for 8 in flight, `r2.5` for 2.5 per second, `i2t-c8` where it is not text to text; in ids."""
        load = f"c{self.concurrency}" if self.rate_per_s is None else f"r{self.rate_per_s:g}"
        return load if self.task is Task.T2T else f"{self.task.value.lower()}-{load}"

    @property
    def title(self) -> str:
        """For people: `c=8`, `2.5/s`, `I2T c=8`."""
        load = f"c={self.concurrency}" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"
        return load if self.task is Task.T2T else f"{self.task.value} {load}"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A sweep, independent of the servers that it runs against.

    `requests` is the number per point, None for max(16, 4 x concurrency). `warmup_waves` waves of as many requests
    as the point's concurrency run before each point and count nowhere. `max_error_rate` is a share, 0 to 1.
    `timeout_s` is how long a request may go without output, None for the client's own limits.

    `rates_per_s` are the points of an open loop; of a ramp, its first and last rate; of a trace, its mean.
    `concurrencies` then has one entry, the most that may be in flight. `burstiness` belongs to gamma arrivals.
    `duration_s`, `stop_error_rate` and `until_ci` end a point early (`StopRules`). `rest_s` is kept between points.
    `outage_limit_s` is how long a server
    may be away, `max_time_s` how long the run may take. With `nonce` every prompt begins with a number of its own, so
    that no prefix cache helps. `slos` are limits by name, in seconds or as a factor.
    `input_tokens` and `output_tokens` are lengths as typed (`load.lengths`), drawn for each request; without them, the
    bundled prompts and `max_tokens`. `tokenizer` is a file to count with where the server does not.
    `api` is the route. Through completions, prompts of `input_tokens` are token ids: those below `vocabulary`, of
    `tokenizer`, or that the server says are text.
    `extra` goes into the JSON body of every request, over what is there.
    `workers` processes share each point, on the hosts of the Ray cluster `cluster` where one is named; None is one for
    each of its hosts.

    Every task of `tasks` has points of its own. `dataset` is a name of `load.datasets` or a folder of media,
    `dataset_dir` where a named one lies; without it, media of the `media` shape are made. `turns` is how many turns a
    conversation has, as lengths are typed; None asks single questions. `think_s` is kept between turns. All points are
    visited `repeats` times. `logprobs` is how many alternatives are asked for at every token, None for none.

    Requests have `temperature`, and `seed` or, with `seed_per_request`, a seed of their own drawn from it: equal seeds
    draw equal noise, so that streams of one seed may say the same things, which is less work than real ones are.
    """

    profile: str
    prompts: str
    concurrencies: tuple[int, ...]
    requests: int | None
    max_tokens: int
    ignore_eos: bool
    warmup_waves: int
    seed: int
    max_error_rate: float
    timeout_s: float | None = None
    shape: Shape = Shape.CLOSED
    rates_per_s: tuple[float, ...] = ()
    burstiness: float = 1.0
    trace: str | None = None
    order: Order = Order.GIVEN
    duration_s: float | None = None
    stop_error_rate: float | None = None
    until_ci: float | None = None
    rest_s: float = 0.0
    outage_limit_s: float = 30.0
    max_time_s: float | None = None
    nonce: bool = True
    slos: Mapping[str, float] = field(default_factory=dict)
    input_tokens: str | None = None
    output_tokens: str | None = None
    tokenizer: str | None = None
    tasks: tuple[Task, ...] = (Task.T2T,)
    dataset: str | None = None
    dataset_dir: str | None = None
    media: MediaShape = field(default_factory=MediaShape)
    turns: str | None = None
    think_s: float = 0.0
    history: History = History.REPLIES
    repeats: int = 1
    logprobs: int | None = None
    temperature: float = 0.0
    seed_per_request: bool = False
    api: Api = Api.CHAT
    vocabulary: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = 1
    cluster: str | None = None

    @property
    def is_shared(self) -> bool:
        """True when other processes than this one make the load."""
        return self.workers != 1 or self.cluster is not None

    @property
    def draws_ids(self) -> bool:
        """True when prompts are token ids and not text."""
        return self.api is Api.COMPLETIONS and self.input_tokens is not None

    def levels(self) -> tuple[Level, ...]:
        """The points, rising, task by task."""
        return tuple(level for task in self.tasks for level in self._levels_of(task))

    def _levels_of(self, task: Task) -> list[Level]:
        if self.shape in OPEN_SHAPES:
            return [Level(self.concurrencies[0], rate, task) for rate in self.rates_per_s]
        if self.shape is Shape.RAMP or (self.shape is Shape.TRACE and self.rates_per_s):
            return [Level(self.concurrencies[0], self.rates_per_s[-1], task)]
        return [Level(concurrency, None, task) for concurrency in self.concurrencies]

    def ordered_levels(self) -> tuple[Level, ...]:
        """The points as they are visited, once."""
        if self.order is Order.RANDOM:
            levels = list(self.levels())
            random.Random(f"points {self.seed}").shuffle(levels)
            return tuple(levels)
        if self.order is Order.INTERLEAVED:
            return tuple(level for task in self.tasks for level in _low_and_high(self._levels_of(task)))
        return self.levels()

    def layout(self, level: Level, repeat: int) -> Layout | None:
        """Which requests of a point belong to which conversation; None where there are none."""
        if self.turns is None:
            return None
        label = level.label if repeat == 1 else f"{level.label} {repeat}"
        return lay_out(parse_lengths(self.turns, "--turns"), self.num_requests(level), self.seed, label)

    @property
    def is_counted(self) -> bool:
        """True when the number of requests alone decides when a point ends."""
        return self.duration_s is None and self.until_ci is None

    def num_requests(self, level: Level) -> int:
        """Measured requests of a point; the most there can be where another rule ends it."""
        if self.requests is not None:
            return self.requests
        if self.turns is not None:
            turns = parse_lengths(self.turns, "--turns")
            return math.ceil((turns.low + turns.high) / 2) * self._default_requests(level)
        return self._default_requests(level)

    def _default_requests(self, level: Level) -> int:
        if self.shape is Shape.RAMP:
            return math.ceil((self.rates_per_s[0] + self.rates_per_s[-1]) / 2 * (self.duration_s or _OPEN_LOOP_S))
        if level.rate_per_s is not None:
            spare = 1 if self.duration_s is None else 2  # drawn gaps may bring more than the rate says
            return max(16, math.ceil(spare * level.rate_per_s * (self.duration_s or _OPEN_LOOP_S)))
        return max(16, 4 * level.concurrency) if self.is_counted else _CAP_WAVES * level.concurrency

    def num_warmup(self, level: Level) -> int:
        """Requests that run before a point: waves of its concurrency, or of what comes within a second."""
        if self.shape is Shape.TRACE:
            return self.warmup_waves * min(level.concurrency, _TRACE_WARMUP)
        if level.rate_per_s is None:
            return self.warmup_waves * level.concurrency
        return self.warmup_waves * min(level.concurrency, math.ceil(level.rate_per_s))


def level_of(part: RequestRecord | Phase) -> Level:
    """The point that a record or a phase belongs to."""
    return Level(part.concurrency, part.rate_per_s, part.task)


def _low_and_high(levels: Sequence[Level]) -> list[Level]:
    return [levels[-(i // 2) - 1] if i % 2 else levels[i // 2] for i in range(len(levels))]


def parse_concurrency(text: str) -> tuple[int, ...]:
    """The points that `text` names, rising: `1..32` doubles, `1..32:4` steps by 4, `1,3,9` lists.

    The end of a range is always a point: `1..10` is 1, 2, 4, 8, 10.

    Raises:
        UsageError: the text is none of these, or a number is out of range.
    """
    points: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+)(?::(\d+))?)?\s*", part)
        if match is None:
            raise UsageError(f"bad concurrency {text!r}: write 1..32 (doubling), 1..32:4 (steps of 4) or 1,3,9")
        start, end, step = (int(group) if group else None for group in match.groups())
        assert start is not None  # the pattern requires it
        points.update(_range(start, end if end is not None else start, step, text))
    return tuple(sorted(points))


def _range(start: int, end: int, step: int | None, text: str) -> list[int]:
    if not 1 <= start <= end <= MAX_CONCURRENCY:
        raise UsageError(f"bad concurrency {text!r}: want 1 <= first <= last <= {MAX_CONCURRENCY}")
    if step == 0:
        raise UsageError(f"bad concurrency {text!r}: a step of 0 never reaches the end")
    points = []
    value = start
    while value < end:
        points.append(value)
        value = value * 2 if step is None else value + step
    return [*points, end]


def parse_rates(text: str) -> tuple[float, ...]:
    """The rates that `text` names, in requests per second: `0.5..8` doubles, `1,2.5,4` lists.

    Raises:
        UsageError: the text is neither, or a number is out of range.
    """
    match = re.fullmatch(r"\s*([\d.]+)\.\.(\d[\d.]*)\s*", text)
    try:
        found = _doubled(*map(float, match.groups())) if match else tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 < rate <= MAX_RATE_PER_S for rate in found):
        raise UsageError(f"bad rate {text!r}: write requests per second as 5, as 1,2.5,4 or as 1..16 (doubling)")
    return tuple(sorted(set(found)))


def _doubled(first: float, last: float) -> tuple[float, ...]:
    if not 0 < first <= last:
        return ()
    steps = math.ceil(math.log2(last / first))
    return (*(first * 2**step for step in range(steps)), last)
