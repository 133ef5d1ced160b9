from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.models.observe import grids_of, record, run_vision
from engine.models.vision import Grid, PositionTable, VisionEncoder, VisionProjector, merge_order
from tests.engine.models.goldens import Golden, assert_matches, load_golden, relative_error


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("d_vision")


def load_encoder(golden: Golden) -> VisionEncoder:
    cfg = golden.config()
    assert cfg.vision is not None
    encoder = VisionEncoder(cfg.vision, cfg.llm.hidden_size, cfg.mlp_depth)
    encoder.load_state_dict(golden.weights(), strict=True)
    return encoder


@pytest.fixture(scope="module")
def encoder(golden: Golden) -> VisionEncoder:
    return load_encoder(golden)


@torch.inference_mode()
def encode(encoder: VisionEncoder, pixels: Tensor, grids: list[Grid]) -> Tensor:
    return encoder(pixels, grids)


def test_every_intermediate_matches_the_released_tower(encoder: VisionEncoder, golden: Golden) -> None:
    got = run_vision(encoder, golden.inputs)
    assert_matches(got, golden.expected)
    torch.testing.assert_close(got["image_embeds"].norm(dim=-1), torch.ones(len(got["image_embeds"])))


def test_rows_and_columns_are_not_interchangeable(encoder: VisionEncoder, golden: Golden) -> None:
    """The golden can fail: grids read as (t, w, h) describe as many patches and give other features."""
    swapped = [(t, w, h) for t, h, w in grids_of(golden.inputs["grid_thw"])]
    got = encode(encoder, golden.inputs["pixel_values"], swapped)
    assert float((got - golden.expected["image_embeds"]).abs().max()) > 0.01


def test_deepstack_mergers_are_loaded_and_without_influence(encoder: VisionEncoder, golden: Golden) -> None:
    broken = load_encoder(golden)
    parameters = list(broken.vision.deepstack_merger_list.parameters())
    cfg = golden.config().vision
    assert cfg is not None
    assert len(parameters) == 6 * len(cfg.deepstack_visual_indexes) > 0
    for parameter in parameters:
        torch.nn.init.constant_(parameter, torch.nan)
    got, want = (run_vision(model, golden.inputs) for model in (broken, encoder))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_grid_equals_its_frames_bit_for_bit(encoder: VisionEncoder, golden: Golden) -> None:
    pixels, grids = golden.inputs["pixel_values"], grids_of(golden.inputs["grid_thw"])
    frames = [(1, h, w) for t, h, w in grids for _ in range(t)]
    assert len(frames) > len(grids)
    assert torch.equal(encode(encoder, pixels, frames), encode(encoder, pixels, grids))


def test_an_image_alone_equals_the_image_in_a_batch(encoder: VisionEncoder, golden: Golden) -> None:
    pixels, grids = golden.inputs["pixel_values"], grids_of(golden.inputs["grid_thw"])
    sizes = [t * h * w for t, h, w in grids]
    alone = [encode(encoder, part, [grid]) for part, grid in zip(pixels.split(sizes), grids, strict=True)]
    torch.testing.assert_close(torch.cat(alone), encode(encoder, pixels, grids), rtol=1e-5, atol=1e-6)


def test_a_frame_does_not_see_its_neighbours(encoder: VisionEncoder) -> None:
    pixels = torch.randn(3 * 24, 1536, generator=torch.Generator().manual_seed(1))
    changed = pixels.clone()
    changed[24:48] = 0.0
    before, after = (encode(encoder, x, [(3, 4, 6)]).split(6) for x in (pixels, changed))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert float((before[1] - after[1]).abs().max()) > 0.01


def test_bfloat16_stays_close_and_keeps_phases_in_float32(golden: Golden) -> None:
    encoder = load_encoder(golden).bfloat16()
    got = run_vision(encoder, golden.inputs)
    assert got["image_embeds"].dtype == torch.bfloat16
    assert relative_error(got["image_embeds"], golden.expected["image_embeds"]) < 2e-2
    assert torch.equal(got["rotary_freqs"], golden.expected["rotary_freqs"])


@pytest.mark.gpu
def test_the_golden_holds_on_the_gpu(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    encoder = load_encoder(golden).cuda()
    inputs = {name: tensor.cuda() for name, tensor in golden.inputs.items()}
    assert_matches(run_vision(encoder, inputs), golden.expected)
    got = run_vision(encoder.bfloat16(), inputs)
    assert relative_error(got["image_embeds"].cpu(), golden.expected["image_embeds"]) < 2e-2


def test_merge_order_keeps_each_block_together() -> None:
    patches = torch.arange(24).view(4, 6)
    assert merge_order(patches, 2).tolist() == [
        *(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11),
        *(12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23),
    ]


def test_positions_are_sampled_from_edge_to_edge(golden: Golden) -> None:
    """A table that holds its own (row, column) must return the sampling points, because they are linear in both."""
    cfg = golden.config().vision
    assert cfg is not None
    side = round(cfg.num_position_embeddings**0.5)
    table = PositionTable(cfg)
    own = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    table.weight.data = own
    got = table([(1, 2, 4), (2, 4, 2)])
    last, third = float(side - 1), (side - 1) / 3
    wide = [(0, 0), (0, third), (last, 0), (last, third), (0, 2 * third), (0, last), (last, 2 * third), (last, last)]
    tall = [(0, 0), (0, last), (third, 0), (third, last), (2 * third, 0), (2 * third, last), (last, 0), (last, last)]
    torch.testing.assert_close(got, torch.tensor(wide + tall + tall))


@pytest.mark.parametrize(
    ("grids", "words"),
    [([(1, 4, 6)], "do not describe 22 patches"), ([(1, 2, 11)], "multiples of 2"), ([], "do not describe")],
)
def test_grids_that_do_not_fit_are_refused(encoder: VisionEncoder, grids: list[Grid], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(torch.zeros(22, 1536), grids)


def test_projector_layers_have_their_released_numbers() -> None:
    names = set(VisionProjector(8, 16, mlp_depth=3).state_dict())
    assert names == {f"{i}.{leaf}" for i in (0, 2, 4) for leaf in ("weight", "bias")}


def test_recording_ends_with_its_context(encoder: VisionEncoder, golden: Golden) -> None:
    with record(encoder, {"vision.merger": "merger"}, inputs={"linear_proj": "projected"}) as seen:
        encode(encoder, golden.inputs["pixel_values"], grids_of(golden.inputs["grid_thw"]))
    assert torch.equal(seen["merger"], seen["projected"])
    seen.clear()
    encode(encoder, golden.inputs["pixel_values"], grids_of(golden.inputs["grid_thw"]))
    assert seen == {}
