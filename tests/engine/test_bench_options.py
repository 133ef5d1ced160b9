"""Options of the offline benchmark that cannot work are refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.bench import __main__ as bench
from engine.bench.offline import Offline, parse_batches, parse_shapes
from engine.config import EngineConfig
from engine.runtime.build import load_engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batches 1,,2", "--batches: want whole numbers of at least 1 such as 1,8,64, got '1,,2'"),
        ("--batches 0", "--batches: want whole numbers"),
        ("--prefill 8", "--prefill: want prompts x tokens such as 8x3500,1x1024, got '8'"),
        ("--repeats 0", "--repeats: want a whole number of at least 1, got '0'"),
        ("--step-tokens 0", "--step-tokens: want a whole number"),
        ("--json /no/such/folder/a.json", "there is no directory /no/such/folder"),
        ("--prompt-tokens 100 --max-model-len 128", "--max-model-len 128: prompt and answer of a stream take 228"),
        ("--prefill 1x8192", "--max-model-len 8192: prompt and answer of a stream take 8193"),
    ],
)
def test_what_cannot_be_measured(
    options: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(SystemExit):
        bench.main([*options.split(), "--device", "cpu"])
    assert message in capsys.readouterr().err


def test_more_layers_than_there_are(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", str(tiny_model), "--layers", "99", "--device", "cpu"]) == 2
    assert "--layers 99" in capsys.readouterr().err


def test_lists() -> None:
    assert parse_batches("1, 8,64") == [1, 8, 64]
    assert parse_shapes("8x3500,1x1024") == [(8, 3500), (1, 1024)]
    assert parse_shapes("") == []


def test_prompts_that_were_not_computed_are_counted(tiny_model: Path) -> None:
    loaded = load_engine(EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=512, max_model_len=64))
    offline = Offline(loaded, loaded.make_loop(), repeats=1)
    assert offline.prefill(2, 32).failed == 0
    assert offline.prefill(2, 65).failed == 2
