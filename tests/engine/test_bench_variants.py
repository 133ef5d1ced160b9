"""The benchmark by several ways of a decode step's kernels."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from engine.bench import __main__ as bench
from engine.bench.variants import parse_variants, table
from engine.kernels.paths import DEFAULT, VARIANTS, Paths, current, taking


def test_ways_are_taken_inside_their_context_alone() -> None:
    assert current() == Paths() == VARIANTS["measured"]
    with taking(VARIANTS["all"]):
        assert current().programmatic
        with taking(VARIANTS["join"]):
            assert current() == Paths(join_attention=True)
        assert current().thin_products
    assert current() == Paths()


def test_what_depends_on_the_order_of_memory_is_not_the_default() -> None:
    served = VARIANTS[DEFAULT]
    assert not any((served.join_attention, served.choose_in_gate, served.programmatic))


def test_every_switch_is_measured_alone() -> None:
    names = set(Paths.__dataclass_fields__)
    alone = [variant for variant in VARIANTS.values() if sum(getattr(variant, name) for name in names) == 1]
    assert {name for variant in alone for name in names if getattr(variant, name)} == names
    assert all(getattr(VARIANTS["all"], name) for name in names)


def test_names_of_variants() -> None:
    assert parse_variants("measured, all") == ["measured", "all"]
    assert parse_variants("each") == list(VARIANTS)
    with pytest.raises(ArgumentTypeError, match="no variant 'fast'; there are measured"):
        parse_variants("all,fast")


def test_options_of_the_comparison_do_not_reach_its_runs() -> None:
    given = ["--tp", "2", "--variants", "each", "--json=a.json", "--batches", "1,2"]
    assert bench._without(given, "--variants", "--json") == ["--tp", "2", "--batches", "1,2"]


def test_rates_stand_beside_the_first_ones() -> None:
    found = {
        "measured": {"rows": [{"batch": 1, "decode_tok_s": 400.0}, {"batch": 8, "decode_tok_s": 1000.0}]},
        "all": {"rows": [{"batch": 1, "decode_tok_s": 500.0}]},
    }
    head, one, eight = table(found)
    assert head.split() == ["decode", "tok/s", "measured", "all"]
    assert one.split() == ["1", "400.0", "(x", "1.000)", "500.0", "(x", "1.250)"]
    assert eight.split()[-1] == "failed"


@pytest.mark.slow
def test_two_variants_in_one_call(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batches", "1", "--prompt-tokens", "4", "--output-tokens", "3", "--repeats", "1"]
    where = ["--model", str(tiny_model), "--device", "cpu", "--max-model-len", "128", "--step-tokens", "128"]
    path = tmp_path / "variants.json"
    assert bench.main([*where, *sizes, "--variants", "measured,all", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["variants"]
    assert {name: (run["paths"], len(run["rows"])) for name, run in found.items()} == {
        "measured": ("measured", 1),
        "all": ("all", 1),
    }
    assert "(x 1.000)" in capfd.readouterr().out
