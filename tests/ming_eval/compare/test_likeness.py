"""What of two runs must be alike: later turns of conversations, and settings that one of them does not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ming_eval.compare.likeness import differences
from ming_eval.compare.system import System, pair
from tests.ming_eval.compare.simulation import World, simulate

WORLD = World(concurrencies=(1,), num_requests=4)


def found(first: System, second: System) -> list[str]:
    pairs = [pair(first.points[key], second.points[key]) for key in first.points]
    return [each.what for each in differences(first, second, pairs) if each.forbids]


def conversing(system: System, **settings: object) -> System:
    """All requests but the first of the point as later turns, each with bytes of its own."""
    points = {
        key: [
            replace(record, turn=record.index + 1, request_sha256="same" if record.index == 0 else f"{id(system)}")
            for record in records
        ]
        for key, records in system.points.items()
    }
    return replace(system, points=points, manifest=replace(system.manifest, settings=settings))


def test_later_turns_may_hold_what_each_server_said_unless_they_were_scripted() -> None:
    systems = [simulate(WORLD, np.random.default_rng(0)) for _ in range(2)]
    assert found(*(conversing(system, history="replies") for system in systems)) == []
    assert found(*(conversing(system, history="scripted") for system in systems)) == ["request bodies"]


def test_a_setting_that_one_run_is_too_old_to_know_is_no_difference() -> None:
    first, second = (simulate(WORLD, np.random.default_rng(0)) for _ in range(2))
    newer = replace(second.manifest, settings={**second.manifest.settings, "turns": None})
    assert found(first, replace(second, manifest=newer)) == []


def test_a_setting_that_was_not_given_is_called_as_in_the_report() -> None:
    systems = [simulate(WORLD, np.random.default_rng(0)) for _ in range(2)]
    first, second = (
        replace(system, manifest=replace(system.manifest, settings={"vocabulary": number, "rates_per_s": rates}))
        for system, number, rates in zip(systems, (1, None), ((), (1.0, 2.0)), strict=True)
    )
    assert [str(each) for each in differences(first, second, [])][:2] == [
        "vocabulary: 1 against default",
        "rates_per_s: none against 1.0,2.0",
    ]


def test_servers_do_different_things_where_an_answer_would_end() -> None:
    first, second = (simulate(WORLD, np.random.default_rng(0)) for _ in range(2))

    def unlike(dialect: str, other: str = "transformers", *, ignore_eos: bool = True) -> list[str]:
        systems = [
            replace(
                system,
                backend=replace(system.backend, dialect=name),
                manifest=replace(system.manifest, settings={"ignore_eos": ignore_eos}),
            )
            for system, name in ((first, other), (second, dialect))
        ]
        pairs = [pair(systems[0].points[key], systems[1].points[key]) for key in first.points]
        return [str(each) for each in differences(systems[0], systems[1], pairs) if "end token" in each.what]

    what = "the end token under --ignore-eos"
    assert unlike("llamacpp") == [f"{what}: drawn and gone beyond against barred"]
    assert unlike("openai", "vllm") == [f"{what}: drawn and gone beyond against not fixed"]
    assert unlike("llamacpp", "mstar") == [f"{what}: not fixed against barred"]
    assert unlike("llamacpp", ignore_eos=False) == unlike("vllm") == unlike("openai", "mstar-native") == []
