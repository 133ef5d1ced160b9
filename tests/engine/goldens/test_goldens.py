"""The golden runner passes on the released cases, and fails when something is off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.goldens.__main__ import BFLOAT16_CASES, CASES, main, run_case
from engine.goldens.compare import Tolerance, compare_tensor
from engine.layers.attention import Attention

FOLDER = Path(__file__).parents[2] / "goldens" / "understanding"


@pytest.mark.parametrize("case", sorted(p.name for p in FOLDER.iterdir() if p.is_dir()))
@pytest.mark.slow
def test_case_passes(case: str) -> None:
    result = run_case(FOLDER / case)
    assert [(c.name, c.detail) for c in result.checks if not c.ok] == []
    assert result.checks


@pytest.mark.parametrize("case", sorted(BFLOAT16_CASES))
@pytest.mark.slow
def test_bfloat16_errs_no_more_than_plain_pytorch(case: str) -> None:
    """On the CPU: cache, packing and grouping in bfloat16. `test_gpus` runs the same through the kernels."""
    result = run_case(FOLDER / case, dtype="bfloat16")
    assert [(c.name, c.detail) for c in result.checks if not c.ok] == []
    assert {"plain float32", "logits", "continuation"} == {c.name.rpartition(": ")[2] for c in result.checks}


def test_bfloat16_notices_attention_that_is_slightly_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: 4 % more attention than there should be is more than rounding explains."""
    exact = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda *args: 1.04 * exact(*args))
    failed = [c.name for c in run_case(FOLDER / "a_thinker_text", dtype="bfloat16").checks if not c.ok]
    assert failed == ["prompt: logits", "prompt: continuation"]


def test_every_case_of_the_set_is_known() -> None:
    assert {p.name for p in FOLDER.iterdir() if p.is_dir()} <= CASES.keys()


@pytest.mark.parametrize("tensor", ["layer.2.topk_ids", "greedy.tokens", "logits"])
def test_a_changed_expectation_fails(tmp_path: Path, tensor: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "a_thinker_text"
    shutil.copytree(FOLDER / case.name, case)
    expected = load_file(case / "expected.safetensors")
    expected[tensor].view(-1)[-1] += 1
    save_file(expected, case / "expected.safetensors")
    assert main([str(tmp_path)]) == 1
    assert tensor in capsys.readouterr().out


def test_a_tensor_that_is_not_produced_fails(tmp_path: Path) -> None:
    case = tmp_path / "d_vision"
    shutil.copytree(FOLDER / case.name, case)
    expected = load_file(case / "expected.safetensors")
    save_file(expected | {"block.9": torch.zeros(1)}, case / "expected.safetensors")
    assert main([str(tmp_path)]) == 1


def test_a_damaged_case_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "d_vision"
    shutil.copytree(FOLDER / case.name, case)
    (case / "model.safetensors").write_bytes(b"broken")
    (tmp_path / "b_thinker_multirouter").mkdir()
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.count("cannot be run") == 2
    assert "Traceback" not in said.out + said.err


def test_unknown_cases_are_named_and_json_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FOLDER / "h_chat_template", tmp_path / "h_chat_template")
    (tmp_path / "z_new").mkdir()
    assert main([str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    assert "not known yet, not run: z_new" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["cases"][0]["ok"] is True
    assert written["unknown"] == ["z_new"]


def test_json_on_standard_output_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FOLDER / "h_chat_template", tmp_path / "h_chat_template")
    assert main([str(tmp_path), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["cases"][0]["case"] == "h_chat_template"
    assert "ok   h_chat_template" in said.err


def test_nothing_to_run_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "absent")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_comparison_is_relative_to_the_tolerance() -> None:
    tolerance = Tolerance(rtol=0.1, atol=1.0)
    check = compare_tensor("x", torch.tensor([12.0]), torch.tensor([10.0]), tolerance)
    assert check.ok
    assert check.error == pytest.approx(1.0)  # off by 2, allowed 1 + 0.1 * 10
    assert not compare_tensor("x", torch.tensor([float("nan")]), torch.tensor([10.0]), tolerance).ok
    assert not compare_tensor("x", torch.zeros(2), torch.zeros(1), tolerance).ok
    assert not compare_tensor("x", torch.tensor([1]), torch.tensor([2]), tolerance).ok
