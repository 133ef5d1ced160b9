"""The benchmark by several ways of a decode step's kernels."""

from __future__ import annotations

import json
import subprocess
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from engine.bench import __main__ as bench
from engine.bench.variants import FIRST_S, LONGEST_S, compare, parse_variants, table
from engine.kernels.paths import DEFAULT, VARIANTS, Paths, current, taking


def test_ways_are_taken_inside_their_context_alone() -> None:
    assert current() == Paths() == VARIANTS["plain"]
    with taking(VARIANTS["lean"]):
        assert current().programmatic
        with taking(VARIANTS["join"]):
            assert current() == Paths(join_attention=True)
        assert current().thin_products
    assert current() == Paths()


def test_every_switch_serves_and_is_measured_alone() -> None:
    names = set(Paths.__dataclass_fields__)
    alone = [variant for variant in VARIANTS.values() if sum(getattr(variant, name) for name in names) == 1]
    assert {name for variant in alone for name in names if getattr(variant, name)} == names
    assert all(getattr(VARIANTS[DEFAULT], name) for name in names)


def test_names_of_variants() -> None:
    assert parse_variants("plain, lean") == ["plain", "lean"]
    assert parse_variants("each") == list(VARIANTS)
    with pytest.raises(ArgumentTypeError, match="no variant 'fast'; there are plain"):
        parse_variants("lean,fast")


def test_options_of_the_comparison_do_not_reach_its_runs() -> None:
    given = ["--tp", "2", "--variants", "each", "--json=a.json", "--batches", "1,2"]
    assert bench._without(given, "--variants", "--json") == ["--tp", "2", "--batches", "1,2"]


def test_a_comparison_is_named_in_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs would get a shorter name, too, and compare in turn."""
    monkeypatch.setattr(bench, "compare", lambda *_: pytest.fail("a comparison has begun"))
    with pytest.raises(SystemExit):
        bench.main(["--variant", "each", "--commit", "abc"])
    assert "unrecognized arguments: --variant each" in capsys.readouterr().err


def test_a_rate_needs_a_token_behind_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--output-tokens", "1"])
    assert "want 2 or more" in capsys.readouterr().err


def test_without_a_gpu_there_is_no_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--device", "cpu", "--profile", "1"])
    assert "kernels of a GPU" in capsys.readouterr().err


def test_rates_stand_beside_the_first_ones() -> None:
    found = {
        "plain": {"rows": [{"batch": 1, "decode_tok_s": 400.0}, {"batch": 8, "decode_tok_s": 1000.0}]},
        "lean": {"rows": [{"batch": 1, "decode_tok_s": 500.0}]},
    }
    plain, lean = table(found)
    assert plain.split() == "plain decode tok/s 1: 400.0 (x 1.000) 8: 1000.0 (x 1.000)".split()
    assert lean.split() == "lean decode tok/s 1: 500.0 (x 1.250) 8: failed".split()
    (nothing,) = table({"lean": {"rows": []}})
    assert nothing.split() == "lean decode tok/s failed".split()


def test_what_all_of_them_reach_is_known_first() -> None:
    """Where the time of a whole comparison ends early, the two ends of it have been measured."""
    assert list(VARIANTS)[:2] == ["plain", "lean"]


def test_a_variant_that_hangs_leaves_time_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates stand there as soon as they are known, and a run that does not end is one that failed."""
    shown: list[str] = []
    limits: list[float] = []

    def run(command: list[str], *, check: bool, timeout: float) -> subprocess.CompletedProcess[bytes]:
        shown.append(capsys.readouterr().out)
        limits.append(timeout)
        name, path = (command[command.index(option) + 1] for option in ("--paths", "--json"))
        if name == "lean":
            raise subprocess.TimeoutExpired(command, timeout)
        assert "--keep-tokens" in command
        row = {"batch": 1, "decode_tok_s": 400.0, "failed": 0, "valid": True, "tokens": [[1, 2, 3]]}
        Path(path).write_text(json.dumps({"rows": [row]}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert compare(["plain", "lean", "join"], [], tmp_path, None) == 1
    assert limits == [FIRST_S, LONGEST_S, LONGEST_S]
    assert LONGEST_S <= 240 / 3, "of the time for all of them (gpu_record.sh), two that hang leave some"
    shown.append(capsys.readouterr().out)
    rows = [[line.split("decode tok/s") for line in text.splitlines() if "decode tok/s" in line] for text in shown]
    assert [[name.strip() for name, _ in found] for found in rows] == [
        [],
        ["plain"],
        ["plain", "lean"],
        ["plain", "lean", "join"],
    ]
    assert rows[-1][1][1].strip() == "1: failed"
    assert 'choice: DEFAULT = "plain"' in shown[-1]
    assert "lean                  out: no rate" in shown[-1]
    limits.clear()
    again = tmp_path / "again"
    again.mkdir()
    compare(["lean", "join"], [], again, None)
    assert limits == [FIRST_S, FIRST_S], "one that hangs does not say what others take"


@pytest.mark.slow
def test_two_variants_in_one_call(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batches", "1", "--prompt-tokens", "4", "--output-tokens", "3", "--repeats", "1"]
    where = ["--model", str(tiny_model), "--device", "cpu", "--max-model-len", "128", "--step-tokens", "128"]
    path = tmp_path / "variants.json"
    assert bench.main([*where, *sizes, "--variants", "plain,lean", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["variants"]
    assert {name: (run["paths"], len(run["rows"])) for name, run in found.items()} == {
        "plain": ("plain", 1),
        "lean": ("lean", 1),
    }
    assert "(x 1.000)" in (out := capfd.readouterr().out)
    assert "choice: DEFAULT = " in out
    assert [(row["equal_tokens"], row["num_tokens"]) for run in found.values() for row in run["rows"]] == [(3.0, 3)] * 2
