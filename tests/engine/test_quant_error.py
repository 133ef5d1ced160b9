"""The report on packing: its numbers add up, and it sees damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine import quant_error
from engine.bench import __main__ as bench
from engine.config import EngineConfig
from engine.errors import ConfigError


def config(path: Path, quant: str = "fp8") -> EngineConfig:
    return EngineConfig(model=str(path), device="cpu", quant=quant)  # type: ignore[arg-type]


def test_errors_of_the_tiny_model(tiny_model: Path) -> None:
    found = quant_error.measure(config(tiny_model), num_tokens=24)
    assert [e.layer for e in found.layers] == [0, 1, 2, 3]
    for layer in found.layers:
        assert 0.02 < layer.weights < 0.03  # what e4m3 does to normal weights
        assert layer.weights < layer.output < 0.4
    assert found.layers[0].hidden < found.layers[-1].hidden < found.logits < 0.5
    assert 0 < found.kl_nats < 0.6
    assert found.lines()[0].startswith("fp8 against float32, 24 random tokens")
    assert found.as_json()["layers"][3]["layer"] == 3


@pytest.mark.slow
def test_without_packing_error_there_is_none(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models on the numbers that are packed: whatever is left would be the report's own mistake."""
    copy = quant_error._copy

    def copy_both_ways(plain: torch.nn.Module, packed: torch.nn.Module) -> None:
        copy(plain, packed)
        for name, target in quant_error.stored_tensors(packed).items():
            if isinstance(target, quant_error.Quantised):
                plain.get_parameter(name).copy_(target.dequantise(torch.float32))

    monkeypatch.setattr(quant_error, "_copy", copy_both_ways)
    found = quant_error.measure(config(tiny_model), num_tokens=16)
    assert found.same_top1 == 1.0
    assert found.logits < 1e-5
    assert all(e.weights == 0 and e.output < 1e-5 for e in found.layers)


def test_nothing_packed_is_nothing_to_measure(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="needs --quant"):
        quant_error.measure(config(tiny_model, "none"))


@pytest.mark.slow
def test_the_benchmark_prints_and_writes_it(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(tiny_model), "--layers", "2", "--device", "cpu", "--dtype", "float32"]
    assert bench.main(["--quant-error", "--quant", "fp8", *where, "--json", str(tmp_path / "e.json")]) == 0
    assert "fp8 against float32" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "e.json").read_text())["errors"]
    assert [row["layer"] for row in found["layers"]] == [0, 1]
    assert bench.main(["--quant-error", *where]) == 2  # both formats, and these experts are too narrow for int4
    assert "int4 needs a multiple of 128" in capsys.readouterr().err
