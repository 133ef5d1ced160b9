"""Fixed tensors and rounded-up shapes change nothing that is heard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models.joined import join_projections
from engine.models.talker import Talker
from engine.stages.bench import Bench, main
from engine.stages.generated import NEVER_STOPS, generate_model, tiny_config
from engine.stages.recorder import CudaGraphs, Direct, pad, padded_sizes

CPU = torch.device("cpu")


def test_sizes_by_hand() -> None:
    assert padded_sizes(8) == (1, 2, 4, 8)
    assert padded_sizes(6) == (1, 2, 4, 6)
    assert padded_sizes(1) == (1,)
    assert [pad(n, (1, 2, 4, 6)) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_static_shapes_give_the_same_samples(batch: int) -> None:
    """Three rows run as four, 14 keys as 256: what stands in the rest must not be seen."""
    model = generate_model(tiny_config(), CPU, torch.float32)
    fitted, padded = Bench(model, batch, Direct()), Bench(model, batch, Direct(pads=True))
    padded.talkers.warm_up()
    padded.backbone.warm_up()
    padded.run(13)  # what an earlier run left behind must not be heard either
    got, want = padded.run(14), fitted.run(14)
    assert got.samples.shape == (batch, 14 * model.config.patch_samples // 4410 * 4410)
    torch.testing.assert_close(got.latents, want.latents, rtol=0, atol=2e-4)
    np.testing.assert_allclose(got.samples, want.samples, atol=2e-3)
    assert len({stream.tobytes() for stream in got.samples}) == batch


def test_joined_projections_are_views_of_one_tensor() -> None:
    config = tiny_config().talker
    torch.manual_seed(0)
    talker = Talker(config)
    for parameter in talker.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    attention = talker.model.layers[0].self_attn
    x = torch.randn(2, 3, config.llm.hidden_size)
    before = attention.qkv(x)
    names = set(talker.state_dict())
    join_projections(talker)
    assert set(talker.state_dict()) == names
    torch.testing.assert_close(attention.qkv(x), before)
    attention.k_proj.bias.data.add_(1)  # a part still is the place to write to
    width = config.llm.num_key_value_heads * config.llm.head_dim
    torch.testing.assert_close(attention.qkv(x)[..., -2 * width : -width], before[..., -2 * width : -width] + 1)


@pytest.mark.slow
def test_generated_weights_speak_and_do_not_stop() -> None:
    model = generate_model(tiny_config(), CPU, torch.float32)
    assert float(model.talker.stop_head.bias[1]) == NEVER_STOPS
    run = Bench(model, 1, Direct()).run(12)
    assert 0.01 < float(np.sqrt(np.square(run.samples).mean())) < 100


@pytest.mark.slow
def test_the_benchmark_runs_here(tmp_path: Path) -> None:
    path = tmp_path / "talker.json"
    options = ["--device", "cpu", "--tiny", "--batch", "2", "--patches", "12", "--repeats", "1"]
    assert main([*options, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [(speed["batch"], speed["recorded"]) for speed in report["speeds"]] == [(2, True), (2, False)]
    speed = report["speeds"][0]
    assert speed["audio_s"] == pytest.approx(12 * 0.32)
    assert speed["rtf"] == pytest.approx(speed["wall_s"][0] / speed["audio_s"])
    assert speed["rtf_total"] == pytest.approx(speed["rtf"] / 2)
    assert report["checks"][0]["ok"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_replay_what_is_launched() -> None:
    model = generate_model(tiny_config(), torch.device("cuda"), torch.float32)
    recorded, plain = Bench(model, 3, CudaGraphs()), Bench(model, 3, Direct(pads=True))
    for _ in range(3):  # the first run of a shape is no replay
        got, want = recorded.run(14), plain.run(14)
        torch.testing.assert_close(got.latents, want.latents, rtol=0, atol=2e-3)
        np.testing.assert_allclose(got.samples, want.samples, atol=2e-2)
