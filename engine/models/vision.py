"""Vision tower: patches of images and video frame pairs to unit-norm features.

Follows the released vision transformer (`Qwen3MoeVisionTransformer`) and its projector; one tower serves images and
frames. Patches of all grids are packed, each frame in *merge order*: the 2 x 2 patches that become one token are
consecutive. A grid is (t, h, w) in patches, t frame pairs of h rows and w columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.rope import apply_rotary
from engine.kernels.varlen_attention import varlen_attention
from engine.layers.rope import Rotation, inverse_frequencies
from engine.model_config import VisionConfig

Grid = tuple[int, int, int]

LAYER_NORM_EPS = 1e-6
ROTARY_THETA = 10000.0


def frame_lengths(grids: Sequence[Grid]) -> tuple[int, ...]:
    """Patches of every frame, in packed order; attention stays within a frame."""
    return tuple(h * w for t, h, w in grids for _ in range(t))


def merge_order(x: Tensor, merge_size: int) -> Tensor:
    """Row-major patches [h, w, ...] -> [h * w, ...] with each merged block of patches consecutive."""
    h, w = x.shape[:2]
    blocks = x.unflatten(1, (w // merge_size, merge_size)).unflatten(0, (h // merge_size, merge_size))
    return blocks.transpose(1, 2).flatten(0, 3)


def pack_frames(grids: Sequence[Grid], make: Callable[[int, int], Tensor]) -> Tensor:
    """Concatenate `make(h, w)` [h * w, ...] of every frame; equal frame sizes are made once."""
    made = {(h, w): make(h, w) for h, w in {(h, w) for _, h, w in grids}}
    return torch.cat([made[h, w] for t, h, w in grids for _ in range(t)])


class PatchEmbed(nn.Module):
    """Pixels of one patch to a vector; the released Conv3d has kernel = stride, which is one matrix product."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        kernel = (cfg.temporal_patch_size, cfg.patch_size, cfg.patch_size)
        self.proj = nn.Conv3d(cfg.in_channels, cfg.hidden_size, kernel, stride=kernel)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[P, M] -> [P, D] in the weights' dtype."""
        weight = self.proj.weight.flatten(1)
        return F.linear(pixel_values.to(weight.dtype), weight, self.proj.bias)


class PositionTable(nn.Module):
    """A square table of learnt vectors, sampled bilinearly at each frame's resolution."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.num_position_embeddings, cfg.hidden_size))
        self.side = math.isqrt(cfg.num_position_embeddings)
        self.merge_size = cfg.spatial_merge_size

    def forward(self, grids: Sequence[Grid]) -> Tensor:
        """-> [P, D], every frame's positions in merge order."""
        return pack_frames(grids, self._interpolate)

    def _interpolate(self, h: int, w: int) -> Tensor:
        (top, bottom, dy), (left, right, dx) = self._samples(h), self._samples(w)
        dy = dy[:, None]
        table = self.weight.unflatten(0, (self.side, self.side))

        def corner(rows: Tensor, columns: Tensor, share: Tensor) -> Tensor:
            return table[rows[:, None], columns] * share[..., None].to(table.dtype)

        # Shares are rounded to the table's dtype and summed in this order, as released.
        sampled = corner(top, left, (1 - dy) * (1 - dx)) + corner(top, right, (1 - dy) * dx)
        sampled = sampled + corner(bottom, left, dy * (1 - dx)) + corner(bottom, right, dy * dx)
        return merge_order(sampled, self.merge_size)

    def _samples(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` points over the table's side, ends included: index below, index above, float32 fraction."""
        points = torch.linspace(0, self.side - 1, count, device=self.weight.device, dtype=torch.float32)
        below = points.long()
        return below, (below + 1).clamp(max=self.side - 1), points - below


class RotaryPhases(nn.Module):
    """2-D rotary phases: the first half of the frequencies turns with the row, the second with the column.

    Frequencies are float32 whatever the model dtype, and made when needed: a buffer would be cast with the weights,
    which puts the released example 0.12 rad off at patch 64.
    """

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.axis_dim = cfg.hidden_size // cfg.num_heads // 2
        self.merge_size = cfg.spatial_merge_size

    def forward(self, grids: Sequence[Grid], device: torch.device) -> Tensor:
        """-> float32 [P, C / 2]; rows and columns restart with every frame."""
        frequencies = inverse_frequencies(self.axis_dim, ROTARY_THETA).to(device)

        def phases(h: int, w: int) -> Tensor:
            rows, columns = torch.meshgrid(
                torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
            )
            coordinates = merge_order(torch.stack((rows, columns), dim=-1), self.merge_size)  # [h * w, 2]
            return (coordinates[..., None] * frequencies).flatten(1)

        return pack_frames(grids, phases)


class Attention(nn.Module):
    """Multi-head attention within each frame."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.num_heads = cfg.num_heads
        self.qkv = nn.Linear(cfg.hidden_size, 3 * cfg.hidden_size)
        self.proj = nn.Linear(cfg.hidden_size, cfg.hidden_size)

    def forward(self, x: Tensor, rotation: Rotation, lengths: Sequence[int]) -> Tensor:
        """[P, D] -> [P, D]."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # [P, H, C] each
        # Rotated in float32 and cast back, as released.
        q, k = (apply_rotary(y.float(), rotation.cos, rotation.sin).to(v.dtype) for y in (q, k))
        return self.proj(varlen_attention(q, k, v, lengths).flatten(1))


class MLP(nn.Module):
    """Two linear layers around the tanh form of GELU; everything else in this file uses the exact form."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(cfg.hidden_size, cfg.intermediate_size)
        self.linear_fc2 = nn.Linear(cfg.intermediate_size, cfg.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[P, D] -> [P, D]."""
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(cfg.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = Attention(cfg)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor, rotation: Rotation, lengths: Sequence[int]) -> Tensor:
        """[P, D] -> [P, D]."""
        x = x + self.attn(self.norm1(x), rotation, lengths)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Joins each 2 x 2 block of patches into one vector.

    `norm_width` is the width of one patch where the norm comes before the join (the merger that is used), of the
    joined patches where it comes after (the deepstack mergers).
    """

    def __init__(self, cfg: VisionConfig, norm_width: int) -> None:
        super().__init__()
        self.norm_width = norm_width
        self.width = cfg.hidden_size * cfg.spatial_merge_size**2
        self.norm = nn.LayerNorm(norm_width, eps=LAYER_NORM_EPS)
        self.linear_fc1 = nn.Linear(self.width, self.width)
        self.linear_fc2 = nn.Linear(self.width, cfg.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[P, D] -> [P / 4, out_hidden_size]."""
        joined = self.norm(x.view(-1, self.norm_width)).view(-1, self.width)
        return self.linear_fc2(F.gelu(self.linear_fc1(joined)))


class VisionTransformer(nn.Module):
    """The tensors under `vision.`.

    The deepstack mergers are part of the checkpoint but never run: the released model computes their results and
    throws them away.
    """

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        joined_width = cfg.hidden_size * cfg.spatial_merge_size**2
        self.patch_embed = PatchEmbed(cfg)
        self.pos_embed = PositionTable(cfg)
        self.rotary_pos_emb = RotaryPhases(cfg)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.merger = PatchMerger(cfg, norm_width=cfg.hidden_size)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(cfg, norm_width=joined_width) for _ in cfg.deepstack_visual_indexes
        )

    def forward(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Tensor:
        """[P, M] -> [P / 4, out_hidden_size], one row per merged block in reading order of each frame."""
        return self.prepare(grids)(pixel_values)

    def prepare(self, grids: Sequence[Grid]) -> Callable[[Tensor], Tensor]:
        """The same for fixed grids: their positions are made here, what is returned runs on the device alone."""
        positions = self.pos_embed(grids)
        phases = self.rotary_pos_emb(grids, positions.device)
        rotation = Rotation(phases.cos(), phases.sin())
        lengths = frame_lengths(grids)

        def run(pixel_values: Tensor) -> Tensor:
            x = self.patch_embed(pixel_values) + positions
            for block in self.blocks:
                x = block(x, rotation, lengths)
            merged: Tensor = self.merger(x)
            return merged

        return run


class VisionProjector(nn.Sequential):
    """The tensors under `linear_proj.`: `mlp_depth` linear layers with GELU between them, into the LLM's width."""

    def __init__(self, in_features: int, hidden_size: int, mlp_depth: int) -> None:
        deeper = (layer for _ in range(mlp_depth - 1) for layer in (nn.GELU(), nn.Linear(hidden_size, hidden_size)))
        super().__init__(nn.Linear(in_features, hidden_size), *deeper)


class VisionEncoder(nn.Module):
    """Tower, projector and normalisation; parameter names are the released ones without a prefix to strip."""

    def __init__(self, cfg: VisionConfig, hidden_size: int, mlp_depth: int) -> None:
        super().__init__()
        self.merge_size = cfg.spatial_merge_size
        self.vision = VisionTransformer(cfg)
        self.linear_proj = VisionProjector(cfg.out_hidden_size, hidden_size, mlp_depth)

    def forward(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Preprocessed patches [P, M] -> unit-norm features [P / 4, D], all grids in one packed call.

        Raises:
            ValueError: the grids do not describe P patches, or a frame does not divide into merged blocks.
        """
        return self.prepare(pixel_values.shape[0], grids)(pixel_values)

    def prepare(self, num_patches: int, grids: Sequence[Grid]) -> Callable[[Tensor], Tensor]:
        """The same for fixed grids; raises what `forward` does."""
        if any(h % self.merge_size or w % self.merge_size for _, h, w in grids):
            raise ValueError(f"grids {list(grids)}: rows and columns must be multiples of {self.merge_size}")
        if sum(frame_lengths(grids)) != num_patches:
            raise ValueError(f"grids {list(grids)} do not describe {num_patches} patches")
        tower = self.vision.prepare(grids)
        return lambda pixel_values: F.normalize(self.linear_proj(tower(pixel_values)), dim=-1)
