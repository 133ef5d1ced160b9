"""Decoding in a stream gives the samples of decoding at once, for any chunks and beside any other streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.goldens.speech import stream_decode
from engine.models.istft import SpectrumHead, join_frames, overlap_add
from engine.models.upsample import UpsampleState, upsample, upsample_stream
from engine.models.vae_decoder import LatentChunk, VAEDecoder
from tests.engine.speech import load_tiny, relative_error


@pytest.fixture(scope="module")
def decoder() -> VAEDecoder:
    return load_tiny().vae.decoder


def latents(length: int, seed: int = 0) -> Tensor:
    return torch.randn(length, 64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def whole(decoder: VAEDecoder, x: Tensor) -> Tensor:
    return decoder(x[None])[0]


@pytest.mark.parametrize("sizes", [(21,), (1,) * 21, (4, 4, 4, 4, 5), (1, 12, 2, 6), (20, 1), (1, 20)])
@torch.inference_mode()
def test_any_chunks_give_the_whole(decoder: VAEDecoder, sizes: tuple[int, ...]) -> None:
    x = latents(21)
    parts = stream_decode(decoder, x, list(sizes))
    torch.testing.assert_close(torch.cat(parts), whole(decoder, x), rtol=0, atol=1e-5)
    assert len(sizes) == 1 or len(parts[0]) == 0  # one chunk behind


def test_every_latent_makes_its_samples(decoder: VAEDecoder) -> None:
    """24 samples a frame, 4 frames a latent, even for a single latent."""
    assert [len(whole(decoder, latents(n))) for n in (1, 2, 7)] == [96, 192, 672]


@torch.inference_mode()
def test_streams_that_share_calls_do_not_hear_each_other(decoder: VAEDecoder) -> None:
    """Three streams of other lengths, which start and end at different calls."""
    streams = {0: (latents(12, 0), 0), 1: (latents(20, 1), 1), 2: (latents(4, 2), 2)}  # latents, first call
    states = {i: decoder.start() for i in streams}
    got: dict[int, list[Tensor]] = {i: [] for i in streams}
    for call in range(6):
        due = [i for i, (x, first) in streams.items() if first <= call < first + len(x) // 4]
        chunks = []
        for i in due:
            x, first = streams[i]
            at = 4 * (call - first)
            chunks.append(LatentChunk(x[at : at + 4], states[i], at + 4 == len(x)))
        for i, (samples, state) in zip(due, decoder.stream(chunks), strict=True):
            got[i].append(samples)
            states[i] = state
    for i, (x, _) in streams.items():
        torch.testing.assert_close(torch.cat(got[i]), whole(decoder, x), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_state_is_a_value(decoder: VAEDecoder) -> None:
    """The same call from the same state gives the same samples, so a failed one can be made again."""
    x = latents(12)
    state = decoder.stream([LatentChunk(x[:4], decoder.start(), False)])[0][1]
    state = decoder.stream([LatentChunk(x[4:8], state, False)])[0][1]
    first = decoder.stream([LatentChunk(x[8:], state, True)])[0][0]
    decoder.stream([LatentChunk(x[:4], state, False)])
    assert torch.equal(decoder.stream([LatentChunk(x[8:], state, True)])[0][0], first)


@torch.inference_mode()
def test_the_released_window_is_needed(decoder: VAEDecoder) -> None:
    """A change far before the window does not reach the end; just inside it, it does."""
    x = latents(24)
    far, near = x.clone(), x.clone()
    far[0] += 1
    near[22] += 1
    end = whole(decoder, x)[-96:]
    # 3 layers of window 10 reach back 27 frames, that is 7 latents.
    torch.testing.assert_close(whole(decoder, far)[-96:], end, rtol=0, atol=1e-6)
    assert float((whole(decoder, near)[-96:] - end).abs().max()) > 1e-3


def test_upsampling_by_hand() -> None:
    """Factor 2 of 0, 4: outputs stand at -0.25, 0.25, 0.75, 1.25, held at the ends."""
    assert upsample(torch.tensor([[0.0], [4.0]]), 2)[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (3, 5, 1), (1, 8), (8, 1)])
def test_upsampling_in_a_stream(sizes: tuple[int, ...]) -> None:
    x = latents(9)
    state: UpsampleState | None = None
    parts = []
    for k, chunk in enumerate(torch.split(x, list(sizes))):
        columns, state = upsample_stream(chunk, 4, state, k == len(sizes) - 1)
        parts.append(columns)
    assert torch.equal(torch.cat(parts), upsample(x, 4))


def test_overlap_add_by_hand() -> None:
    """Two frames of four hops of one sample, the second one sample later."""
    frames = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]])
    assert overlap_add(frames)[0].tolist() == [1.0, 12.0, 23.0, 34.0, 40.0]


def test_a_constant_signal_survives_window_and_edges() -> None:
    """Frames that all hold windowed ones give ones everywhere, edges included."""
    window = torch.hann_window(8) + 0.1
    samples, _ = join_frames(window.expand(5, 8), window, None, last=True)
    weights, _ = join_frames(window.square().expand(5, 8), window, None, last=True)
    assert len(samples) == 5 * 2
    torch.testing.assert_close(weights, torch.ones(10))


def test_a_stream_cannot_start_with_a_single_frame() -> None:
    with pytest.raises(ValueError, match="at least two"):
        join_frames(torch.ones(1, 8), torch.ones(8), None, last=False)


@torch.inference_mode()
def test_magnitudes_are_limited_and_edges_of_the_spectrum_real() -> None:
    """One bin far beyond the limit: a cosine of the limit's height, whatever the phases at 0 and Nyquist say."""
    head = SpectrumHead(1, hop_size=4)  # 16 samples, 9 bins
    head.out.weight.zero_()
    head.out.bias.fill_(-100.0)  # magnitudes of zero
    head.out.bias[2] = 50.0
    head.out.bias[9:] = 0.0
    head.out.bias[9] = head.out.bias[17] = 1.0
    head.out.bias[0] = head.out.bias[8] = 0.0
    frame = head(torch.zeros(1, 1, 1))[0, 0]
    n = torch.arange(16)
    real = torch.cos(torch.tensor(1.0))
    want = (2 * 100 * torch.cos(2 * torch.pi * 2 * n / 16) + real * (1 + (-1.0) ** n)) / 16
    torch.testing.assert_close(frame, want * torch.hann_window(16), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_bfloat16_stays_close_and_samples_are_float32() -> None:
    x = latents(16)
    got = load_tiny(torch.bfloat16).vae.decoder(x[None])[0]
    assert got.dtype == torch.float32
    assert relative_error(got, whole(load_tiny().vae.decoder, x)) < 0.1
