from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from engine import tiny
from engine.errors import ConfigError
from engine.inputs.tokenizer import Tokenizer
from engine.model_config import load_model_config
from engine.stages.load import load_speech
from engine.stages.prompt import check_markers
from engine.stages.speak import Speaker, speak
from engine.tiny.snapshot import SNAPSHOT_DIGEST, default_cache_dir, snapshot_digest
from engine.tiny.train import CORPUS_FILE
from engine.tiny.vocabulary import unreadable_ids

Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.ensure_snapshot(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tensors(snapshot: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor, by the file that the index names for it."""
    index = json.loads((snapshot / "model.safetensors.index.json").read_text())
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(snapshot / file, "np") as shard:
            names = list(shard.keys())
            assert names == [name for name in names if index["weight_map"][name] == file]
            found |= {name: shard.get_tensor(name) for name in names}
    assert found.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    return found


def test_layout_is_that_of_a_released_snapshot(snapshot: Path) -> None:
    files = [file for file in snapshot.rglob("*") if file.is_file()]
    assert {file.relative_to(snapshot).as_posix() for file in files} == {
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors.index.json",
        *(f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)),
        *("talker/config.json", "talker/model.safetensors", "talker/llm/config.json", "talker/llm/tokenizer.json"),
        *("talker/vae/config.json", "talker/vae/model.safetensors"),
    }
    assert sum(file.stat().st_size for file in files) < 45e6


def test_configuration_is_understood_without_a_remark(snapshot: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = load_model_config(snapshot)
    assert not caplog.records
    assert not config.unknown_keys()
    llm = config.llm
    assert (llm.num_hidden_layers, llm.first_k_dense_replace) == (4, 1)
    assert (llm.num_experts, llm.n_group, llm.topk_group, llm.num_experts_per_tok) == (16, 4, 2, 4)
    assert (llm.num_attention_heads, llm.num_key_value_heads, llm.head_dim) == (8, 2, 128)
    assert config.vision is not None
    assert config.audio is not None


def test_token_ids_of_the_configuration_are_the_tokenizers(snapshot: Path) -> None:
    llm, tokenizer = load_model_config(snapshot).llm, Tokenizer.load(snapshot)
    assert llm.eos_token_id == tokenizer.eos_token_id == tokenizer.token_id("<|role_end|>")
    assert llm.pad_token_id == tokenizer.token_id("<|endoftext|>")
    assert llm.image_patch_token == tokenizer.token_id("<imagePatch>")
    assert llm.image_start_token == tokenizer.token_id("<image>") == tokenizer.token_id("<imagePatch>") + 1
    assert llm.video_patch_token == tokenizer.token_id("<framePatch>")
    assert llm.video_start_token == tokenizer.token_id("<video>")
    assert tokenizer.vocab_size <= llm.vocab_size


def released_tensors(config: dict[str, Any]) -> list[tuple[str, list[Shape], int]]:
    """The checkpoint table of the specification: name pattern, shapes allowed, how many tensors match."""
    llm, vision, audio = config["llm_config"], config["vision_config"], config["audio_config"]["whisper_encoder_config"]
    d, v, c = llm["hidden_size"], llm["vocab_size"], llm["head_dim"]
    heads, kv = llm["num_attention_heads"], llm["num_key_value_heads"]
    layers, e, f = llm["num_hidden_layers"], llm["num_experts"], llm["moe_intermediate_size"]
    moe = layers - llm["first_k_dense_replace"]
    vd, vf, vo = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    depth, deep = vision["depth"], len(vision["deepstack_visual_indexes"])
    a, n = audio["n_state"], audio["n_layer"]
    layer, block = r"model\.model\.layers\.\d+\.", r"vision\.blocks\.\d+\."
    return [
        (r"model\.model\.word_embeddings\.weight", [(v, d)], 1),
        (layer + r"(input|post_attention)_layernorm\.weight", [(d,)], 2 * layers),
        (layer + r"attention\.query_key_value\.weight", [((heads + 2 * kv) * c, d)], layers),
        (layer + r"attention\.[qk]_norm\.weight", [(c,)], 2 * layers),
        (layer + r"attention\.dense\.weight", [(d, heads * c)], layers),
        (r"model\.model\.layers\.0\.mlp\.(gate|up)_proj\.weight", [(llm["intermediate_size"], d)], 2),
        (r"model\.model\.layers\.0\.mlp\.down_proj\.weight", [(d, llm["intermediate_size"])], 1),
        (layer + r"mlp\.(|image_|audio_)gate\.weight", [(e, d)], 3 * moe),
        (layer + r"mlp\.(|image_|audio_)gate\.expert_bias", [(e,)], 3 * moe),
        (layer + r"mlp\.(experts\.\d+|shared_experts)\.(gate|up)_proj\.weight", [(f, d)], 2 * (e + 1) * moe),
        (layer + r"mlp\.(experts\.\d+|shared_experts)\.down_proj\.weight", [(d, f)], (e + 1) * moe),
        (r"model\.model\.norm\.weight", [(d,)], 1),
        (r"model\.lm_head\.weight", [(v, d)], 1),
        (r"vision\.patch_embed\.proj\.(weight|bias)", [(vd, 3, 2, 16, 16), (vd,)], 2),
        (r"vision\.pos_embed\.weight", [(vision["num_position_embeddings"], vd)], 1),
        (block + r"norm[12]\.(weight|bias)", [(vd,)], 4 * depth),
        (block + r"attn\.qkv\.(weight|bias)", [(3 * vd, vd), (3 * vd,)], 2 * depth),
        (block + r"attn\.proj\.(weight|bias)", [(vd, vd), (vd,)], 2 * depth),
        (block + r"mlp\.linear_fc1\.(weight|bias)", [(vf, vd), (vf,)], 2 * depth),
        (block + r"mlp\.linear_fc2\.(weight|bias)", [(vd, vf), (vd,)], 2 * depth),
        (r"vision\.merger\.norm\.(weight|bias)", [(vd,)], 2),
        (r"vision\.deepstack_merger_list\.\d\.norm\.(weight|bias)", [(4 * vd,)], 2 * deep),
        (r"vision\.(merger|deepstack_merger_list\.\d)\.linear_fc1\..*", [(4 * vd, 4 * vd), (4 * vd,)], 2 + 2 * deep),
        (r"vision\.(merger|deepstack_merger_list\.\d)\.linear_fc2\..*", [(vo, 4 * vd), (vo,)], 2 + 2 * deep),
        (r"linear_proj\.(0|2)\.(weight|bias)", [(d, vo), (d, d), (d,)], 4),
        (r"audio\.conv1\.(weight|bias)", [(a, audio["n_mels"], 3), (a,)], 2),
        (r"audio\.conv2\.(weight|bias)", [(a, a, 3), (a,)], 2),
        (r"audio\.blocks\.\d+\.attn\.(query|value|out)\.(weight|bias)", [(a, a), (a,)], 6 * n),
        (r"audio\.blocks\.\d+\.attn\.key\.weight", [(a, a)], n),
        (r"audio\.blocks\.\d+\.(attn|mlp)_ln\.(weight|bias)", [(a,)], 4 * n),
        (r"audio\.blocks\.\d+\.mlp\.0\.(weight|bias)", [(4 * a, a), (4 * a,)], 2 * n),
        (r"audio\.blocks\.\d+\.mlp\.2\.(weight|bias)", [(a, 4 * a), (a,)], 2 * n),
        (r"audio\.ln_post\.(weight|bias)", [(a,)], 2),
        (r"linear_proj_audio\.0\.(weight|bias)", [(d, a, 3), (d,)], 2),
        (r"linear_proj_audio\.3\.(weight|bias)", [(d, d), (d,)], 2),
    ]


def test_tensors_have_released_names_and_shapes(snapshot: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    table = released_tensors(json.loads((snapshot / "config.json").read_text()))
    for pattern, shapes, count in table:
        matching = [name for name in tensors if re.fullmatch(pattern, name)]
        assert len(matching) == count, pattern
        for name in matching:
            assert tensors[name].shape in shapes, name
            assert tensors[name].dtype == np.float32
    assert sum(count for _, _, count in table) == len(tensors)


def test_gates_differ_and_activations_keep_their_size(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    gate = "model.model.layers.2.mlp.{}gate.expert_bias"
    biases = [tensors[gate.format(kind)] for kind in ("", "image_", "audio_")]
    assert all(0.02 < np.abs(bias).mean() < 0.3 for bias in biases)
    assert all(np.abs(x - y).max() > 0.05 for x, y in [biases[:2], biases[1:], biases[::2]])
    for name in ("model.model.layers.3.attention.dense.weight", "vision.patch_embed.proj.weight"):
        weight = tensors[name].reshape(tensors[name].shape[0], -1)
        assert weight.std() * math.sqrt(weight.shape[1]) == pytest.approx(1.0, rel=0.05)
    assert tensors["vision.blocks.3.norm2.weight"].mean() == pytest.approx(1.0, abs=0.05)


def test_only_readable_text_is_likely(tensors: dict[str, np.ndarray[Any, Any]], snapshot: Path) -> None:
    sizes = np.linalg.norm(tensors["model.lm_head.weight"], axis=1)
    tokenizer, unreadable = Tokenizer.load(snapshot), np.isin(np.arange(len(sizes)), unreadable_ids())
    assert sizes[unreadable].max() < 0.2 * sizes[~unreadable].min()
    assert tokenizer.eos_token_id in unreadable_ids()
    for token_id in np.flatnonzero(~unreadable):
        tokenizer.token_bytes(int(token_id)).decode()  # strict: a part of a character would raise


def test_the_vocabulary_fits_its_corpus(snapshot: Path) -> None:
    corpus, tokenizer = CORPUS_FILE.read_text(encoding="utf-8"), Tokenizer.load(snapshot)
    ids = tokenizer.encode(corpus)
    assert len(ids) < 0.4 * len(corpus)
    assert len(set(ids)) > 1000


@pytest.mark.slow
def test_the_talker_loads_and_speaks(snapshot: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_speech(snapshot / "talker", torch.device("cpu"))
    assert not caplog.records
    assert not model.config.talker.llm.unknown
    assert (model.config.vae.sample_rate, model.config.patch_samples) == (44100, 14112)
    encoder = Tokenizer.load(snapshot / "talker" / "llm")
    check_markers(encoder)
    samples = np.concatenate(list(speak(Speaker(model, encoder), ["The fox jumps over the lazy dog."])))
    assert 3.8 < len(samples) / 44100 < 15
    assert np.isfinite(samples).all()
    assert 0.03 < samples.std() < 0.3


def test_every_machine_writes_the_same_bytes(snapshot: Path) -> None:
    """One digest is committed, one comes from this process; those of others below are the same."""
    assert snapshot_digest(snapshot) == SNAPSHOT_DIGEST
    assert SNAPSHOT_DIGEST.startswith(snapshot.name.rpartition("-")[2])


def run_in_processes(cache: Path, count: int) -> list[Path]:
    code = "import sys, pathlib, engine.tiny; print(engine.tiny.ensure_snapshot(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    return [Path(output.strip()) for output in outputs]


@pytest.mark.slow
def test_processes_may_write_at_once(tmp_path: Path) -> None:
    paths = run_in_processes(tmp_path, count=4)
    assert len(set(paths)) == 1
    assert snapshot_digest(paths[0]) == SNAPSHOT_DIGEST
    assert list(tmp_path.iterdir()) == [paths[0]], "nothing may be left aside"


@pytest.mark.slow
def test_only_a_damaged_snapshot_is_written_again(tmp_path: Path) -> None:
    path = tiny.ensure_snapshot(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert tiny.ensure_snapshot(tmp_path) == path
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    shard = path / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()
    changed = partial(shard.write_bytes, content[:-1] + bytes([content[-1] ^ 1]))
    for damage in (changed, shard.unlink, partial((path / "more.json").write_text, "{}")):
        damage()
        assert snapshot_digest(path) != SNAPSHOT_DIGEST
        assert tiny.ensure_snapshot(tmp_path) == path
        assert snapshot_digest(path) == SNAPSHOT_DIGEST, damage
        assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file/cache \(Not a directory\).*--cache-dir or MING_EVAL_CACHE"):
        tiny.ensure_snapshot(tmp_path / "file" / "cache")


def test_cache_directory_follows_the_environment() -> None:
    assert default_cache_dir({"MING_EVAL_CACHE": "/big", "XDG_CACHE_HOME": "/x"}) == Path("/big")
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/ming-eval")
    assert default_cache_dir({}).is_relative_to(Path.home())
