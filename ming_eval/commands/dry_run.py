"""`ming-eval sweep --dry-run`: what would be sent, without sending it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from ming_eval.client import wire
from ming_eval.commands.duration import Experience, find_experience
from ming_eval.errors import UsageError
from ming_eval.load.lengths import Lengths, parse_lengths
from ming_eval.load.plan import OPEN_SHAPES, Api, Level, LoadPlan, Shape
from ming_eval.load.synthetic import Vocabulary, guessed_vocabulary
from ming_eval.load.token_ids import TokenIds, given_token_ids
from ming_eval.load.workload import Prompt, load_prompts, plan_points
from ming_eval.report.grid import Grid, number
from ming_eval.targets import Target, find_dialect

_GUESS = "a guess"
_GUESSED_IDS = 1000


def dry_run_text(plan: LoadPlan, targets: Sequence[Target], out: Path, *, guess_dialect: bool = False) -> str:
    """Points, requests, tokens and time of a plan, and its first request.

    `guess_dialect`: a run would ask the servers how they spell the API; the request shown is in OpenAI's spelling then.
    Times are there where the plan fixes them, or where a run of the same server in `out` lets them be guessed.

    Raises:
        UsageError: the plan has no point.
    """
    header = ["load", "warm-up", "requests", "output tokens", "s"]
    experience = find_experience(out, targets)
    rows = [_row(level, plan, experience) for level in plan.ordered_levels()]
    num_backends = max(1, len(targets))
    once = sum(plan.num_requests(level) + plan.num_warmup(level) for level in plan.levels())
    total = once * num_backends * plan.repeats
    lines = [
        Grid(header, rows).text(),
        f"{total} requests to {num_backends} backend{'s' if num_backends > 1 else ''}"
        + (f" in {plan.repeats} passes" if plan.repeats > 1 else "")
        + ", warm-up included."
        + ("" if plan.is_counted else " Another rule may end a point earlier.")
        + _about_time(plan, experience),
        "",
        _first_request(plan, targets, guess_dialect=guess_dialect),
    ]
    return "\n".join(lines) + "\n"


def _about_time(plan: LoadPlan, experience: Experience | None) -> str:
    if plan.shape in OPEN_SHAPES or plan.duration_s is not None:
        return ""
    if experience is None:
        return " The time of a closed loop is up to the server."
    return f" Times are guessed from {experience.run}, a pass, without warm-up."


def _row(level: Level, plan: LoadPlan, experience: Experience | None) -> list[str]:
    count, lengths = plan.num_requests(level), _lengths(plan)
    mean = (lengths.low + lengths.high) / 2
    seconds = _seconds(level, plan)
    if seconds is None and experience is not None and plan.shape is not Shape.TRACE:
        seconds = experience.seconds(level, count, mean)
    return [level.title, str(plan.num_warmup(level)), str(count), f"{count * mean:.0f}", number(seconds)]


def _lengths(plan: LoadPlan) -> Lengths:
    return parse_lengths(plan.output_tokens or str(plan.max_tokens), "--output-tokens")


def _seconds(level: Level, plan: LoadPlan) -> float | None:
    """How long requests are sent; answers come on top."""
    limits = [plan.duration_s] if plan.duration_s is not None else []
    if level.rate_per_s is not None and plan.shape is not Shape.RAMP:
        limits.append(math.ceil(plan.num_requests(level) / level.rate_per_s))
    return min(limits, default=None)


def _first_request(plan: LoadPlan, targets: Sequence[Target], *, guess_dialect: bool) -> str:
    prompts = load_prompts(plan.prompts)
    vocabulary = _vocabulary(plan, prompts)
    point = next(plan_points(plan, prompts, vocabulary), None)
    if point is None:
        raise UsageError("the plan has no point")
    target = targets[0] if targets else None
    dialect = target.dialect if target else find_dialect("ming")
    if plan.api is Api.COMPLETIONS:
        target, dialect = target.for_completions() if target else None, dialect.for_completions()
    request = point.measured[0]
    body = wire.encode(request, target.model if target else None, dialect)
    where = target.request_url if target else "the bundled engine"
    asked = [] if target and target.model else ["the model"]
    if target and guess_dialect:
        asked.append("the dialect, here that of OpenAI")
    if isinstance(vocabulary, TokenIds) and vocabulary.source == _GUESS:
        asked.append(f"its token ids, here {len(vocabulary.ids)}")
    note = f" (asked of the server: {'; '.join(asked)})" if asked else ""
    return f"{request.id}, to {where}{note}, {len(body)} bytes:\n{_without_files(body.decode(errors='replace'))}"


def _vocabulary(plan: LoadPlan, prompts: Sequence[Prompt]) -> Vocabulary | TokenIds | None:
    """As far as it is known without the server, at which the real one is measured."""
    if plan.input_tokens is None:
        return None
    if plan.draws_ids:
        known = given_token_ids(plan.vocabulary, None if plan.tokenizer is None else Path(plan.tokenizer))
        return known or TokenIds(range(_GUESSED_IDS), _GUESS)
    return guessed_vocabulary(prompt.text for prompt in prompts)


def _without_files(body: str) -> str:
    """`body` with the middle of encoded files and of long prompts in token ids left out."""
    body = re.sub(r"((?:\d+,){64})(?:\d+,){64,}", r"\1...,", body)
    return re.sub(r"([A-Za-z0-9+/]{24})[A-Za-z0-9+/]{200,}={0,2}", r"\1...", body)
