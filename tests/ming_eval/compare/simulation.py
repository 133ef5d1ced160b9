"""Record sets of systems whose speed is known."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ming_eval.compare.system import System, systems_of
from ming_eval.types import RequestRecord
from tests.ming_eval.factories import make_backend, make_manifest, make_plan, make_record

NUM_TOKENS = 32
_TEMPLATE = make_record(output_event_tokens=(1,) * NUM_TOKENS, num_output_tokens=NUM_TOKENS)
_FIELDS = {field.name: getattr(_TEMPLATE, field.name) for field in fields(_TEMPLATE)}
_SHARES = np.linspace(0.25, 1.0, NUM_TOKENS)  # of a request's time, at each token


@dataclass(frozen=True)
class World:
    """How requests vary: coefficients of variation, of each request and of 8 neighbours in time together."""

    cv: float = 0.10
    shared_cv: float = 0.0
    num_requests: int = 64
    concurrencies: tuple[int, ...] = (1, 4, 16)


def simulate(world: World, rng: np.random.Generator, *, name: str = "a", slowdown: float = 1.0) -> System:
    """One system's closed-loop sweep: a request takes 1 s x `slowdown`, more or less; a quarter to the first token."""
    records: list[RequestRecord] = []
    for concurrency in world.concurrencies:
        noise = rng.normal(1, world.cv, world.num_requests)
        noise += np.repeat(rng.normal(0, world.shared_cv, world.num_requests // 8 + 1), 8)[: world.num_requests]
        free_s = np.zeros(concurrency)
        for index, duration_s in enumerate(slowdown * np.maximum(noise, 0.1)):
            slot = int(free_s.argmin())
            records.append(_record(name, concurrency, index, slot, float(free_s[slot]), float(duration_s)))
            free_s[slot] += duration_s
    plan = make_plan(concurrencies=world.concurrencies)
    (system,) = systems_of(make_manifest(plan, make_backend(name)), records)
    return system


def _record(name: str, concurrency: int, index: int, slot: int, sent_s: float, duration_s: float) -> RequestRecord:
    times_s = (sent_s + duration_s * _SHARES).tolist()
    varying: dict[str, Any] = {  # hundreds of thousands are made: `dataclasses.replace` would take most of the time
        "id": f"c{concurrency}-{index}",
        "backend": name,
        "concurrency": concurrency,
        "index": index,
        "slot": slot,
        "sent_s": sent_s,
        "first_output_s": times_s[0],
        "last_output_s": times_s[-1],
        "done_s": times_s[-1],
        "output_times_s": tuple(times_s),
    }
    return RequestRecord(**(_FIELDS | varying))
