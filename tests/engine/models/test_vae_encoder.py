"""The encoder: frames, groups, the posterior, and clips of any length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.models.vae_encoder import Posterior, VAEEncoder, num_encoder_layers, pad_to_patches
from tests.engine.speech import load_tiny, max_error


def clip(length: int) -> Tensor:
    return torch.randn(1, length, generator=torch.Generator().manual_seed(length))


@pytest.fixture(scope="module")
def encoder() -> VAEEncoder:
    return load_tiny().vae.encoder


def test_clips_are_padded_in_front_to_whole_patches() -> None:
    padded = pad_to_patches(torch.ones(1, 5), 4)
    assert padded.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    assert pad_to_patches(torch.ones(1, 8), 4).shape == (1, 8)


@pytest.mark.parametrize(("samples", "num_latents"), [(1, 1), (96, 1), (97, 2), (960, 10), (961, 11)])
@torch.inference_mode()
def test_one_latent_for_each_96_samples_begun(encoder: VAEEncoder, samples: int, num_latents: int) -> None:
    assert encoder(clip(samples)).mean.shape == (1, num_latents, 64)


@torch.inference_mode()
def test_nothing_is_heard_before_it_sounds(encoder: VAEEncoder) -> None:
    """Causal: the first latents of a clip are those of its beginning."""
    x = clip(960)
    torch.testing.assert_close(encoder(x).mean[:, :6], encoder(x[:, : 6 * 96]).mean, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_clips_of_a_batch_are_encoded_as_if_alone(encoder: VAEEncoder) -> None:
    batch = torch.cat((clip(480), clip(480).flip(1)))
    for row in (0, 1):
        alone = encoder(batch[row : row + 1])
        torch.testing.assert_close(encoder(batch).mean[row], alone.mean[0], rtol=1e-4, atol=1e-5)


def test_posterior_by_hand() -> None:
    """Raw scale 0: softplus is ln 2. A very negative one leaves the floor of 1e-4."""
    posterior = Posterior.of(torch.tensor([[[3.0, 5.0, 0.0, -50.0]]]))
    assert posterior.mean.tolist() == [[[3.0, 5.0]]]
    assert posterior.std[0, 0].tolist() == pytest.approx([math.log(2) + 1e-4, 1e-4])
    assert posterior.sample(torch.tensor([[[2.0, 10.0]]]))[0, 0].tolist() == pytest.approx([3 + 2 * 0.69324718, 5.001])


@torch.inference_mode()
def test_depth_is_a_choice_with_the_released_default() -> None:
    cfg = load_tiny().config.vae
    assert (num_encoder_layers(cfg, "released"), num_encoder_layers(cfg, "all")) == (4, 6)
    x = clip(480)
    released, whole = load_tiny().vae.encoder, load_tiny(depth="all").vae.encoder
    assert (len(released.encoder.layers), len(whole.encoder.layers)) == (4, 6)
    assert len(whole.aggregator.layers) == 4
    assert max_error(released(x).mean, whole(x).mean) > 0.1
