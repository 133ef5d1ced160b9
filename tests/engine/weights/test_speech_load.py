"""Both known packagings, and any mixture of them, load; what is missing or superfluous is said by name."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import WeightError
from engine.models.audio_vae import AudioVAE
from engine.stages.load import SpeechModel, load_speech
from engine.weights.load import make_plan, stored_shapes
from engine.weights.rules import AUDIO, THINKER
from engine.weights.speech_rules import TALKER as TALKER_RULES
from engine.weights.speech_rules import VAE
from tests.engine.speech import TALKER

Tensors = dict[str, Tensor]
CONFIGS = ("config.json", "llm/config.json", "vae/config.json")


def load(folder: Path) -> SpeechModel:
    return load_speech(folder, torch.device("cpu"), torch.float32)


@pytest.fixture
def talker() -> Tensors:
    return load_file(TALKER / "model.safetensors")


@pytest.fixture
def vae() -> Tensors:
    return load_file(TALKER / "vae" / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`talker/` in a snapshot, with configurations and no weights."""
    for name in CONFIGS:
        (tmp_path / "talker" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TALKER / name, tmp_path / "talker" / name)
    return tmp_path / "talker"


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_complete(model: SpeechModel, talker: Tensors, vae: Tensors) -> None:
    """Every parameter is the stored tensor of its name."""
    own = dict(model.talker.named_parameters())
    assert torch.equal(own.pop("embed_tokens.weight"), talker["model.embed_tokens.weight"])
    assert all(torch.equal(parameter, talker[name]) for name, parameter in own.items())
    assert all(torch.equal(parameter, vae[name]) for name, parameter in model.vae.named_parameters())


@pytest.mark.parametrize("vae_prefix", ["", "audio.", "audio_vae.", "talker_vae.", "vae.", "talker.audio_vae."])
@pytest.mark.parametrize("talker_prefix", ["", "talker."])
def test_every_prefix(folder: Path, talker: Tensors, vae: Tensors, talker_prefix: str, vae_prefix: str) -> None:
    save_file(prefixed(talker, talker_prefix), folder / "model.safetensors")
    save_file(prefixed(vae, vae_prefix), folder / "vae" / "model.safetensors")
    assert_complete(load(folder), talker, vae)


@pytest.mark.parametrize("vae_prefix", ["audio.", "audio_vae."])
def test_one_file_for_both(folder: Path, talker: Tensors, vae: Tensors, vae_prefix: str) -> None:
    save_file(talker | prefixed(vae, vae_prefix), folder / "model.safetensors")
    assert_complete(load(folder), talker, vae)


def test_vae_among_the_thinkers_shards_beside_whisper(folder: Path, talker: Tensors, vae: Tensors) -> None:
    save_file(talker, folder / "model.safetensors")
    whisper = {"audio.blocks.0.attn.query.weight": torch.ones(2, 2), "audio.conv1.weight": torch.ones(2, 2, 3)}
    save_file(prefixed(vae, "audio.") | whisper, folder.parent / "model.safetensors")
    assert_complete(load(folder), talker, vae)


def test_weights_in_several_files_without_an_index(folder: Path, talker: Tensors, vae: Tensors) -> None:
    items = list(talker.items())
    for i in range(3):
        save_file(dict(items[i::3]), folder / f"model-{i:05}-of-00003.safetensors")
    save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert_complete(load(folder), talker, vae)


def test_a_tensor_in_two_files_is_refused(folder: Path, talker: Tensors, vae: Tensors) -> None:
    for i in range(2):
        save_file(talker, folder / f"model-{i}.safetensors")
    with pytest.raises(WeightError, match=r"both model-0\.safetensors and model-1\.safetensors hold"):
        load(folder)


def test_an_incomplete_vae_is_passed_over(folder: Path, talker: Tensors, vae: Tensors) -> None:
    """Half of it in `vae/`, all of it with the talker: the second is taken."""
    save_file(talker | prefixed(vae, "audio_vae."), folder / "model.safetensors")
    half = {name: tensor * 0 for name, tensor in vae.items() if name.startswith("decoder.")}
    save_file(half, folder / "vae" / "model.safetensors")
    assert_complete(load(folder), talker, vae)


def test_what_no_source_has_is_named(folder: Path, talker: Tensors, vae: Tensors) -> None:
    save_file(talker, folder / "model.safetensors")
    with pytest.raises(WeightError, match="no weights in vae/ or beside it"):
        load(folder)
    del vae["decoder.fc1.bias"]
    save_file(vae, folder / "vae" / "model.safetensors")
    with pytest.raises(WeightError, match=r"1 parameters are not in the checkpoint: decoder\.fc1\.bias"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["stop_head.bias", "model.layers.2.mlp.down_proj.weight", "aggregator.x_embedder.bias"]
)
def test_a_missing_talker_tensor_is_named(folder: Path, talker: Tensors, vae: Tensors, name: str) -> None:
    del talker[name]
    save_file(talker, folder / "model.safetensors")
    save_file(vae, folder / "vae" / "model.safetensors")
    with pytest.raises(WeightError, match=name):
        load(folder)


def test_a_wrong_shape_names_both(folder: Path, talker: Tensors, vae: Tensors) -> None:
    save_file(talker | {"stop_head.bias": torch.zeros(3)}, folder / "model.safetensors")
    save_file(vae, folder / "vae" / "model.safetensors")
    with pytest.raises(WeightError, match=r"stop_head.bias: this rank's part is \(3,\), config.json wants \(2,\)"):
        load(folder)


def test_computed_and_unused_tensors_may_be_absent(folder: Path, talker: Tensors, vae: Tensors) -> None:
    dropped = ("encoder.norm.weight", "encoder.norm.bias", "decoder.head.istft.window")
    kept = {n: x for n, x in vae.items() if n not in dropped and not n.endswith("embed_tokens.weight")}
    assert len(kept) == len(vae) - 6
    save_file(kept, folder / "vae" / "model.safetensors")
    save_file({n: x for n, x in talker.items() if "rotary_embed" not in n}, folder / "model.safetensors")
    assert_complete(load(folder), talker, vae)


def test_a_superfluous_tensor_is_a_warning(
    folder: Path, talker: Tensors, vae: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(talker | {"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    save_file(vae, folder / "vae" / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert [record.getMessage() for record in caplog.records] == [f"{folder}: 1 tensors are not used: lm_head.weight"]


def test_no_warning_about_a_complete_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(TALKER)
    assert caplog.records == []


def test_layers_beyond_the_released_depth_are_not_read(folder: Path, talker: Tensors, vae: Tensors) -> None:
    save_file(talker, folder / "model.safetensors")
    save_file({n: x for n, x in vae.items() if "encoder.encoder.layers.5." not in n}, folder / "vae/model.safetensors")
    assert len(load(folder).vae.encoder.encoder.layers) == 4
    with pytest.raises(WeightError, match=r"encoder\.encoder\.layers\.5\."):
        load_speech(folder, torch.device("cpu"), torch.float32, "all")


def test_dtype_is_the_stored_one_unless_asked(folder: Path, talker: Tensors, vae: Tensors) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in talker.items()}, folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in vae.items()}, folder / "vae" / "model.safetensors")
    model = load_speech(folder, torch.device("cpu"))
    assert {p.dtype for part in (model.talker, model.vae) for p in part.parameters()} == {torch.bfloat16}
    # Tables stay exact whatever the dtype, and whatever rounded copy a file holds.
    assert {b.dtype for part in (model.talker, model.vae) for b in part.buffers()} == {torch.float32}
    torch.testing.assert_close(model.vae.decoder.head.window, vae["decoder.head.istft.window"])


def test_the_thinker_leaves_the_speech_part_of_merged_files_alone(vae: Tensors, talker: Tensors) -> None:
    names = [*prefixed(vae, "audio."), *prefixed(vae, "audio_vae."), *prefixed(talker, "talker.")]
    plan = make_plan(names, {}, [THINKER, AUDIO])
    assert plan.unexpected == ()
    assert len(plan.skipped) == len(names)
    # ... but not what merely starts alike.
    assert make_plan(["audio.encoder.conv.weight"], {}, [THINKER, AUDIO]).unexpected == ("audio.encoder.conv.weight",)


def test_whisper_is_never_taken_for_the_vae() -> None:
    for name in (
        "audio.blocks.3.mlp.0.weight",
        "audio.conv2.bias",
        "audio.ln_post.weight",
        "audio.positional_embedding",
    ):
        assert not VAE.owns(name)
    assert VAE.owns("audio.encoder.encoder.layers.0.mlp.up_proj.weight")
    assert VAE.unwrap("talker.audio_vae.decoder.fc1.bias") == "decoder.fc1.bias"
    assert not TALKER_RULES.owns("audio_vae.decoder.fc1.bias")


def test_the_plan_covers_the_released_names() -> None:
    """Sizes of the tiny VAE, names of the release: all parameters are assigned, the rest is skipped with a reason."""
    vae = load_file(TALKER / "vae" / "model.safetensors")
    plan = make_plan(vae, stored_shapes(AudioVAE(load(TALKER).config.vae, "all")), [VAE])
    assert plan.problems == []
    assert set(plan.skipped) == {
        "encoder.norm.weight",
        "encoder.norm.bias",
        "decoder.head.istft.window",
        "encoder.encoder.embed_tokens.weight",
        "encoder.aggregator.embed_tokens.weight",
        "decoder.decoder.embed_tokens.weight",
    }
