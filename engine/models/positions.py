"""Positions (T, H, W) of every prompt token, as the released `video_rope` scheme counts them.

Text, markers and audio advance one counter that all three axes share. The patches of an image or of a frame pair
stand at one point in time, spread around the counter in height and width (so they can be negative), and the whole
run advances the counter by one. The Qwen2-VL scheme that other engines use here anchors the patches at their top left
corner instead and advances by the longest side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.model_config import MERGE_SIZE, LLMConfig

Grid = tuple[int, int, int]

FRAME_STEP = 2.0  # time between frame pairs in one run, per unit of `seconds_per_grid`
PADDING_POSITION = 1
T_AXIS = 0


@dataclass(frozen=True, slots=True)
class PatchTokens:
    """The ids that mark runs of patches, named as in `llm_config`."""

    image_start_token: int
    image_patch_token: int
    video_start_token: int
    video_patch_token: int
    use_interleaved_frame_timestamp: bool = True

    @classmethod
    def of(cls, cfg: LLMConfig) -> PatchTokens:
        """Take the ids from the thinker's configuration.

        Raises:
            ConfigError: it lacks one of them.
        """
        names = ("image_start_token", "image_patch_token", "video_start_token", "video_patch_token")
        ids = {name: getattr(cfg, name) for name in names}
        missing = [name for name, value in ids.items() if value is None]
        if missing:
            raise ConfigError(f"llm_config: {', '.join(missing)} missing; the model takes no images or video")
        return cls(**ids, use_interleaved_frame_timestamp=cfg.use_interleaved_frame_timestamp)

    @property
    def frame_start_token(self) -> int:
        """Interleaved frames are introduced as images are; the configured id of `<video>` is not looked at."""
        return self.image_start_token if self.use_interleaved_frame_timestamp else self.video_start_token


@dataclass(frozen=True, slots=True)
class PatchRun:
    """The patch tokens of one grid, from `start` on; `frame_step` is the time between its frame pairs."""

    start: int
    grid: Grid
    frame_step: float = FRAME_STEP

    @property
    def num_tokens(self) -> int:
        """Merged patches of the grid."""
        t, h, w = self.grid
        return t * (h // MERGE_SIZE) * (w // MERGE_SIZE)


def positions_from_spans(num_tokens: int, spans: Sequence[tuple[int, int, Grid | None]]) -> tuple[Tensor, int]:
    """Positions int64 [3, T] of a prompt whose media is known, and its rope_delta.

    A span is (start, number of placeholders, grid), in prompt order; audio has no grid and counts as text. Token n
    of the prompt's continuation stands at `n + rope_delta` on all axes, n counting from the prompt's first token.

    Raises:
        ValueError: a span is not what its grid fills, overlaps the one before, or passes the end of the prompt.
    """
    runs = []
    for start, length, grid in spans:
        if grid is None:
            continue
        run = PatchRun(start, grid)
        if run.num_tokens != length:
            raise ValueError(f"grid {grid} fills {run.num_tokens} placeholders, the span at {start} has {length}")
        runs.append(run)
    return lay_out(num_tokens, runs)


def lay_out(num_tokens: int, runs: Sequence[PatchRun]) -> tuple[Tensor, int]:
    """Positions int64 [3, T] and rope_delta of one prompt; everything outside the runs is text.

    Raises:
        ValueError: the runs overlap, are out of order, or pass the end of the prompt.
    """
    parts: list[Tensor] = []
    counter, done = 0.0, 0
    for run in runs:
        if run.start < done or run.start + run.num_tokens > num_tokens:
            raise ValueError(
                f"{run.num_tokens} placeholders at {run.start} overlap the media before them (it ends at {done}) "
                f"or pass the end of the {num_tokens} tokens"
            )
        parts.append(_text(counter, run.start - done))
        parts.append(_patches(counter + run.start - done, run))
        counter = float(parts[-1][T_AXIS, -1]) + 1
        done = run.start + run.num_tokens
    parts.append(_text(counter, num_tokens - done))
    # Fractional frame steps add up first and are truncated toward zero last, as released.
    positions = torch.cat(parts, dim=1).long()
    # Only the T axis counts: centred patches may reach further in height or width.
    return positions, int(positions[T_AXIS, -1]) + 1 - num_tokens


def _text(counter: float, count: int) -> Tensor:
    """float32 [3, count]: the three axes move together."""
    return (counter + torch.arange(count, dtype=torch.float32)).expand(3, -1)


def _patches(counter: float, run: PatchRun) -> Tensor:
    """float32 [3, n] of one grid, row-major within each frame pair, centred on its time."""
    t, h, w = run.grid
    rows, columns = h // MERGE_SIZE, w // MERGE_SIZE
    time = (counter + torch.arange(t, dtype=torch.float32) * run.frame_step).view(t, 1, 1)
    height = time + (torch.arange(rows) - (rows - 1) // 2).view(1, rows, 1)
    width = time + (torch.arange(columns) - (columns - 1) // 2).view(1, 1, columns)
    return torch.stack([axis.expand(t, rows, columns) for axis in (time, height, width)]).flatten(1)


def batch_positions(
    input_ids: Tensor,
    tokens: PatchTokens,
    image_grids: Sequence[Grid] = (),
    video_grids: Sequence[Grid] = (),
    attention_mask: Tensor | None = None,
    seconds_per_grid: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions int64 [3, B, T] and rope_delta [B, 1] of padded prompts [B, T], found from their ids.

    Grids are consumed in reading order across the whole batch; `attention_mask` [B, T] is 0 on padding, whose
    positions are 1. `seconds_per_grid` scales time within a video's run, which interleaved frames do not have.

    Raises:
        ValueError: more runs of patches than grids, or a run that is not what its grid fills.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    seconds = [1.0] * len(video_grids) if seconds_per_grid is None else seconds_per_grid
    videos = [(grid, scale * FRAME_STEP) for grid, scale in zip(video_grids, seconds, strict=True)]
    if tokens.use_interleaved_frame_timestamp:
        videos = [((1, h, w), step) for (t, h, w), step in videos for _ in range(t)]
    images = iter([(grid, FRAME_STEP) for grid in image_grids])
    frames = iter(videos)

    positions = torch.full((3, *input_ids.shape), PADDING_POSITION)
    deltas = torch.empty(len(input_ids), 1, dtype=torch.int64)
    for i, kept in enumerate(mask.bool()):
        ids = input_ids[i, kept]
        runs = _find_runs(ids, tokens.image_start_token, tokens.image_patch_token, images)
        runs += _find_runs(ids, tokens.frame_start_token, tokens.video_patch_token, frames)
        positions[:, i, kept], delta = lay_out(len(ids), sorted(runs, key=lambda run: run.start))
        deltas[i] = delta + len(ids) - len(kept)  # counted from the padded row
    return positions, deltas


def _find_runs(ids: Tensor, start_token: int, patch_token: int, grids: Iterator[tuple[Grid, float]]) -> list[PatchRun]:
    """The runs of `patch_token` in ids [T], each right after `start_token`; takes one grid for each."""
    starts = ((ids[:-1] == start_token) & (ids[1:] == patch_token)).nonzero().flatten() + 1
    runs = []
    for start in starts.tolist():
        grid, step = next(grids, (None, 0.0))
        if grid is None:
            raise ValueError(f"the run of token {patch_token} at {start} has no grid left")
        run = PatchRun(start, grid, step)
        length = int((ids[start:] == patch_token).long().cumprod(0).sum())
        if length != run.num_tokens:
            raise ValueError(
                f"the run of token {patch_token} at {start} has {length}, grid {grid} fills {run.num_tokens}"
            )
        runs.append(run)
    return runs
