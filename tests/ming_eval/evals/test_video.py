"""Clips of the bundled sample, whose scenes last 2 s each: lengths, frames, subtitles at sampled times."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from ming_eval.errors import DataError
from ming_eval.evals.asking import Attachments, build_request, read_attachments
from ming_eval.evals.plan import AskOptions, Plan, Sample, make_plan
from ming_eval.evals.suite import find_suite, suites_folder
from ming_eval.evals.video import duration_s, frames_at, slice_centres
from ming_eval.types import Media, Task, Text

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

CLIPS = suites_folder() / "videomme" / "media"


def mean_colour(media: Media) -> tuple[int, ...]:
    """Of the pixels that are not white."""
    pixels = np.asarray(Image.open(BytesIO(media.data)).convert("RGB")).reshape(-1, 3).astype(int)
    return tuple(np.median(pixels[pixels.min(axis=1) < 128], axis=0))


def sample_of(plan: Plan, item_id: str) -> Sample:
    return next(sample for sample in plan.samples if sample.item.id == item_id)


def attached(protocol: str, item_id: str) -> tuple[Attachments, str, Task]:
    plan = make_plan(find_suite("videomme"), AskOptions(protocol=protocol))
    sample = sample_of(plan, item_id)
    found = read_attachments(plan, sample)
    request = build_request(plan, sample, found)
    text = request.messages[-1].parts[-1]
    assert isinstance(text, Text)
    return found, text.text, request.task


def test_lengths_by_class() -> None:
    assert [round(duration_s(CLIPS / f"clip{n}.mp4"), 1) for n in ("01", "05", "09")] == [2.0, 6.0, 10.0]


def test_centres_of_slices() -> None:
    assert slice_centres(4, 8.0) == [1.0, 3.0, 5.0, 7.0]


def test_a_frame_of_each_scene() -> None:
    """Clip 6 shows black, green, orange for 2 s each."""
    frames = frames_at(CLIPS / "clip06.mp4", [1.0, 3.0, 5.0], None)
    black, green, orange = map(mean_colour, frames)
    assert max(black) < 60
    assert green[1] > green[0] + 60
    assert orange[0] > orange[2] + 100
    assert {(frame.kind, frame.mime) for frame in frames} == {("image", "image/jpeg")}


def test_frames_are_made_smaller_and_never_larger() -> None:
    (small,) = frames_at(CLIPS / "clip01.mp4", [0.5], 60)
    assert Image.open(BytesIO(small.data)).size == (80, 60)
    (same,) = frames_at(CLIPS / "clip01.mp4", [0.5], 600)
    assert Image.open(BytesIO(same.data)).size == (160, 120)


def test_a_time_after_the_end_gets_the_last_frame() -> None:
    frames = frames_at(CLIPS / "clip01.mp4", [1.95, 60.0], None)
    assert frames[0].data == frames[1].data


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"not a video at all")
    with pytest.raises(DataError, match=r"x\.mp4 is no video"):
        duration_s(tmp_path / "x.mp4")


def test_the_default_protocol_sends_the_video() -> None:
    found, _, task = attached("mcq-letter", "clip01-0")
    assert [(media.kind, media.mime) for media in found.media] == [("video", "video/mp4")]
    assert task is Task.V2T


def test_the_blind_protocol_sends_nothing() -> None:
    found, _, task = attached("videomme-blind", "clip01-0")
    assert (found.media, task) == ((), Task.T2T)


def test_the_frames_protocol_sends_images() -> None:
    found, _, task = attached("videomme-frames", "clip09-0")
    assert [media.kind for media in found.media] == ["image"] * 16
    assert task is Task.I2T


def test_the_official_prompt_word_for_word() -> None:
    _, text, _ = attached("videomme-official", "clip01-2")
    assert text == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "Which shape is seen?\nA. A square\nB. A triangle\nC. A circle\nD. A star\nThe best answer is:"
    )


def test_subtitles_stand_before_it_where_there_are_some() -> None:
    _, with_block, _ = attached("videomme-official-subs", "clip09-0")
    assert with_block.startswith("This video's subtitles are listed below:\nA red circle moves upwards.\nA blue circle")
    _, without, _ = attached("videomme-official-subs", "clip01-2")
    assert without == attached("videomme-official", "clip01-2")[1]
