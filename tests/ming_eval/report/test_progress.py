from __future__ import annotations

import io

from ming_eval.report.progress import Progress
from ming_eval.types import Failure
from tests.ming_eval.factories import make_record


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def play(progress: Progress) -> None:
    progress.status("starting")
    progress.point_started("a", "c=2", 2, warmup=True)
    progress.request_ended(make_record(warmup=True))
    progress.point_ended()
    progress.point_started("a", "c=2", 3, warmup=False)
    progress.request_ended(make_record())
    progress.request_ended(make_record(failure=Failure.RESET))
    progress.point_ended()


def test_off_a_terminal_there_is_one_plain_line_per_point() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        play(progress)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("a c=2: 2/3 done, 1 failed, ")
    assert "TTFT p50 100 ms" in line


def test_failed_warmup_leaves_a_line() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.point_started("a", "c=1", 1, warmup=True)
        progress.request_ended(make_record(failure=Failure.RESET))
        progress.point_ended()
    assert stream.getvalue().startswith("a c=1 warm-up: 1/1 done, 1 failed")


def test_a_terminal_sees_the_running_point_change_in_place() -> None:
    stream = Terminal()
    with Progress(stream) as progress:
        play(progress)
    shown = stream.getvalue()
    assert "starting" in shown
    assert "a c=2 warm-up: 0/2 done" in shown
    assert "\x1b[2K" in shown  # lines are erased and drawn again
    assert "a c=2: 2/3 done, 1 failed" in shown
