"""What is sent: bundled prompts in a seeded order, never the same text twice in a run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import overload

from ming_eval.errors import UsageError
from ming_eval.load.lengths import Lengths, parse_lengths
from ming_eval.load.plan import Level, LoadPlan
from ming_eval.load.synthetic import Vocabulary
from ming_eval.load.trace import TraceRow, read_trace
from ming_eval.types import Message, Request, Text

PROMPT_SETS: dict[str, tuple[str, str]] = {  # name: (file below `suites`, what is in it)
    "chat": ("chat/prompts.jsonl", "general questions of 6 to 150 words, most in English"),
}

_NONCES = 10**9
_NONCE_STRIDE = (
    618_033_989  # prime to 10**9, so every index has its own nonce; near 10**9 / golden ratio: leading digits differ
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One bundled question."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class PointWork:
    """The requests of one point: the same ones for every backend. No text occurs twice, warm-up included."""

    level: Level
    warmup: Sequence[Request]
    measured: Sequence[Request]


def load_prompts(name: str) -> tuple[Prompt, ...]:
    """The bundled prompt set called `name`, in file order.

    Raises:
        UsageError: there is none.
    """
    if name not in PROMPT_SETS:
        raise UsageError(f"unknown prompt set {name!r}: choose one of {', '.join(PROMPT_SETS)}")
    path, _ = PROMPT_SETS[name]
    lines = resources.files("suites").joinpath(path).read_text(encoding="utf-8").splitlines()
    return tuple(Prompt(**json.loads(line)) for line in lines)


class Texts:
    """Prompt texts by number, in an order drawn from `seed`: every prompt comes once in each round of all of them.

    Text i is the same whatever was asked for before it. With `nonce` each begins with a number that no other text of
    the run has, so that a server's prefix cache finds nothing behind the chat template; without it, prompts repeat from
    the second round on.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, *, nonce: bool = True) -> None:
        self._prompts = prompts
        self._seed = seed
        self._nonce = nonce
        self._first_nonce = random.Random(f"nonce {seed}").randrange(_NONCES)
        self._order: tuple[int, Sequence[Prompt]] = (-1, ())  # the round that was used last

    def __getitem__(self, index: int) -> str:
        number, place = divmod(index, len(self._prompts))
        if self._order[0] != number:
            order = random.Random(f"order {self._seed} {number}").sample(self._prompts, len(self._prompts))
            self._order = number, order
        text = self._order[1][place].text
        return f"{(self._first_nonce + index * _NONCE_STRIDE) % _NONCES:09d} {text}" if self._nonce else text


class Requests(Sequence[Request]):
    """A stretch of the run's requests, made when they are asked for: a point may have room for a million."""

    def __init__(self, make: Callable[[int], Request], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Request: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...

    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        return self._make(range(self._count)[index])


class DrawnTexts:
    """Texts by number, of drawn lengths; text i depends on nothing but the seed and the vocabulary."""

    def __init__(self, vocabulary: Vocabulary, lengths: Lengths, seed: int) -> None:
        self._vocabulary = vocabulary
        self._lengths = lengths
        self._seed = seed

    def __getitem__(self, index: int) -> str:
        rng = random.Random(f"text {self._seed} {index}")
        return self._vocabulary.text(self._lengths.draw(rng), rng)


def plan_points(plan: LoadPlan, prompts: Sequence[Prompt], vocabulary: Vocabulary | None = None) -> Iterator[PointWork]:
    """The requests of each point of `plan` in the order of visits, a function of the arguments alone.

    `vocabulary` is there when the plan asks for lengths of the prompts.
    """
    texts: Texts | DrawnTexts = Texts(prompts, plan.seed, nonce=plan.nonce)
    if plan.input_tokens is not None:
        assert vocabulary is not None
        texts = DrawnTexts(vocabulary, parse_lengths(plan.input_tokens, "--input-tokens"), plan.seed)
    rows = read_trace(Path(plan.trace)) if plan.trace is not None else ()
    starts = dict(zip(plan.levels(), _starts(plan), strict=True))
    for level in plan.ordered_levels():
        start, num_warmup = starts[level], plan.num_warmup(level)
        yield PointWork(
            level,
            Requests(_maker(f"{level.label}-warmup-", texts, start, plan), num_warmup),
            Requests(_maker(f"{level.label}-", texts, start + num_warmup, plan, rows), plan.num_requests(level)),
        )


def _starts(plan: LoadPlan) -> Iterator[int]:
    """The number of each point's first text; it does not depend on the order of visits."""
    return accumulate((plan.num_warmup(level) + plan.num_requests(level) for level in plan.levels()[:-1]), initial=0)


def _maker(
    prefix: str, texts: Texts | DrawnTexts, start: int, plan: LoadPlan, rows: Sequence[TraceRow] = ()
) -> Callable[[int], Request]:
    """Request i of a stretch; a trace's own text and length win where it has them."""

    lengths = parse_lengths(plan.output_tokens or str(plan.max_tokens), "--output-tokens")

    def make(index: int) -> Request:
        # Drawn by number: request i is as long on every system.
        num_tokens = lengths.draw(random.Random(f"length {plan.seed} {start + index}"))
        request = replace(_request(f"{prefix}{index}", texts[start + index], plan), max_tokens=num_tokens)
        return _as_recorded(request, rows[index]) if rows else request

    return make


def _as_recorded(request: Request, row: TraceRow) -> Request:
    messages = request.messages if row.text is None else (Message("user", (Text(row.text),)),)
    return replace(request, messages=messages, max_tokens=row.output_tokens or request.max_tokens)


def _request(request_id: str, text: str, plan: LoadPlan) -> Request:
    return Request(
        id=request_id,
        messages=(Message("user", (Text(text),)),),
        max_tokens=plan.max_tokens,
        temperature=0.0,
        seed=plan.seed,
        ignore_eos=plan.ignore_eos,
    )
