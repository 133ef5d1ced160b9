"""The speech cases pass, and fail when an expectation or a weight is changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.goldens.__main__ import CASES, main, run_case

FOLDER = Path(__file__).parents[2] / "goldens" / "speech"
NAMES = sorted(p.name for p in FOLDER.iterdir() if p.is_dir())
SLOW = pytest.mark.slow


def test_every_case_of_the_set_is_known() -> None:
    assert set(NAMES) <= CASES.keys()


@pytest.mark.parametrize("case", [pytest.param(n, marks=SLOW if n == "e2e_talker" else ()) for n in NAMES])
def test_case_passes(case: str) -> None:
    result = run_case(FOLDER / case)
    assert [(c.name, c.detail) for c in result.checks if not c.ok] == []
    assert result.checks


def copy(tmp_path: Path, case: str) -> Path:
    shutil.copytree(FOLDER / case, tmp_path / case)
    return tmp_path / case


@pytest.mark.parametrize(
    "case",
    [pytest.param(n, marks=SLOW if n == "e2e_talker" else ()) for n in NAMES if n != "text_frontend"],
)
def test_every_stored_expectation_is_compared(tmp_path: Path, case: str) -> None:
    """Each expected tensor, changed alone by far more than its tolerance, is among the failures."""
    folder = copy(tmp_path, case)
    expected = load_file(folder / "expected.safetensors")
    names = {name for name in expected if not name.endswith("_stream_official")}  # information only
    save_file({name: x + 1 if name in names else x for name, x in expected.items()}, folder / "expected.safetensors")
    failed = {check.name for check in run_case(folder).checks if not check.ok}
    assert names <= failed


def test_every_kind_of_text_expectation_is_compared(tmp_path: Path) -> None:
    folder = copy(tmp_path, "text_frontend")
    cases = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    for case in cases["segmentation"]:
        case |= {name: None for name in case if name != "text"}
    for case in cases["captions"] + cases["prompt_assembly"]:
        case |= {name: None for name in ("instruction", "rendered", "length") if name in case}
    # `instruction` of a prompt is an input: give it back.
    original = json.loads((FOLDER / "text_frontend" / "expected.json").read_text(encoding="utf-8"))
    for case, before in zip(cases["prompt_assembly"], original["prompt_assembly"], strict=True):
        case["instruction"] = before["instruction"]
    (folder / "expected.json").write_text(json.dumps(cases), encoding="utf-8")
    assert all(not check.ok for check in run_case(folder).checks)


@pytest.mark.parametrize(
    ("case", "tensor"),
    [
        ("dit_blocks", "cfm.model.c_embedder.cond_embedder.bias"),
        ("aggregator", "aggregator.word_embedder.weight"),
        ("talker_llm_step", "model.layers.2.self_attn.k_proj.bias"),
        ("vae_encode", "encoder.cls_embed"),
    ],
)
def test_a_changed_weight_fails(tmp_path: Path, case: str, tensor: str) -> None:
    folder = copy(tmp_path, case)
    weights = load_file(folder / "model.safetensors")
    weights[tensor] += 0.1
    save_file(weights, folder / "model.safetensors")
    assert not run_case(folder).ok


def test_other_lengths_of_the_same_cases(tmp_path: Path) -> None:
    """One decode step instead of two, a whole VAE instead of its decoder, fragments of another length."""
    folder = copy(tmp_path, "talker_llm_step")
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    del inputs["next_embed_2"]
    expected |= {name: expected[name][:, :2] for name in ("hidden_steps", "stop_logits", "stop_probs")}
    save_file(inputs, folder / "inputs.safetensors")
    save_file({name: x.contiguous() for name, x in expected.items()}, folder / "expected.safetensors")
    assert run_case(folder).ok

    folder = copy(tmp_path, "vae_decode")
    weights = load_file(folder / "model.safetensors") | {"encoder.cls_embed": torch.zeros(1, 1, 64)}
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    inputs["splits_ones"] = torch.ones(inputs["latents"].shape[1], dtype=torch.int64)
    expected["stream_ones"] = expected["waveform_offline"][0].clone()
    for name, tensors in (("model", weights), ("inputs", inputs), ("expected", expected)):
        save_file(tensors, folder / f"{name}.safetensors")
    assert run_case(folder).ok

    folder = copy(tmp_path, "text_frontend")
    cases = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    cases["segmentation"] = [
        {"text": "一二三，四五六。", "cut_3": ["一二三，", "四五六。"]},
        {"text": "a", "nuance": 1},
    ]
    (folder / "expected.json").write_text(json.dumps(cases), encoding="utf-8")
    assert [check.name for check in run_case(folder).checks if not check.ok] == ["segmentation.1.nuance"]


@pytest.mark.slow
def test_runs_of_the_talker_may_have_any_names(tmp_path: Path) -> None:
    folder = copy(tmp_path, "e2e_talker")
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    for part in ("cases", "encode_calls"):
        request[part] = {"a voice": request[part]["clone"]}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    for name in ("inputs", "expected"):
        tensors = load_file(folder / f"{name}.safetensors")
        kept = {key.replace("clone/", "a voice/"): x for key, x in tensors.items() if "/" not in key or "clone/" in key}
        save_file(kept, folder / f"{name}.safetensors")
    assert run_case(folder).ok


def test_a_case_that_cannot_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The patch does not fit the weights: a failure of torch, not of ours."""
    copy(tmp_path, "silence_trim")
    folder = copy(tmp_path, "aggregator")
    save_file({"latents": torch.zeros(1, 4, 3)}, folder / "inputs.safetensors")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:17] for line in lines] == ["FAIL aggregator: ", "ok   silence_trim"]
