"""What is sent: bundled prompts in a seeded order, never the same text twice in a run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice

from ming_eval.errors import UsageError
from ming_eval.load.plan import LoadPlan
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

    concurrency: int
    warmup: tuple[Request, ...]
    measured: tuple[Request, ...]


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


def plan_points(plan: LoadPlan, prompts: Sequence[Prompt]) -> Iterator[PointWork]:
    """The requests of each point of `plan`, a function of plan and prompts alone."""
    texts = unique_texts(prompts, plan.seed)
    for concurrency in plan.concurrencies:
        warmup = list(islice(texts, plan.num_warmup(concurrency)))
        measured = list(islice(texts, plan.num_requests(concurrency)))
        yield PointWork(
            concurrency,
            tuple(_request(f"c{concurrency}-warmup-{i}", text, plan) for i, text in enumerate(warmup)),
            tuple(_request(f"c{concurrency}-{i}", text, plan) for i, text in enumerate(measured)),
        )


def unique_texts(prompts: Sequence[Prompt], seed: int) -> Iterator[str]:
    """Endless prompt texts in an order drawn from `seed`.

    The first round is the prompts as they are; later rounds put a number in front that no other text of the run has,
    so that a server's prefix cache finds nothing of an earlier request behind the chat template.
    """
    first_nonce = random.Random(f"nonce {seed}").randrange(_NONCES)
    index = 0
    while True:
        order = random.Random(f"order {seed} {index}").sample(prompts, len(prompts))
        for prompt in order:
            nonce = (first_nonce + index * _NONCE_STRIDE) % _NONCES
            yield prompt.text if index < len(prompts) else f"{nonce:09d} {prompt.text}"
            index += 1


def _request(request_id: str, text: str, plan: LoadPlan) -> Request:
    return Request(
        id=request_id,
        messages=(Message("user", (Text(text),)),),
        max_tokens=plan.max_tokens,
        temperature=0.0,
        seed=plan.seed,
        ignore_eos=plan.ignore_eos,
    )
