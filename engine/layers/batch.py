"""What a layer must know about the tokens of one step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.kernels.paged_attention import PagedLayout


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's share of the paged cache, each [num_blocks, block_size, K, C]."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed tokens of one step.

    `image_rows` and `audio_rows` (int64, or None when there are none) are the packed tokens that the image and
    audio gates route; every other token, and every token that is decoded, belongs to the text gate.
    """

    positions: Tensor  # int64 [3, T]
    slots: Tensor  # int64 [T], where this step's keys and values go
    layout: PagedLayout
    image_rows: Tensor | None = None
    audio_rows: Tensor | None = None
