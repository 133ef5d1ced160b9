"""What one sweep will do: points, lengths, seed; parsed from the command line and stored in the manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ming_eval.errors import UsageError

MAX_CONCURRENCY = 65_536  # more connections than one address has ports


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A sweep, independent of the servers that it runs against.

    `requests` is the number per point, None for max(16, 4 x concurrency). `warmup_waves` waves of as many requests
    as the point's concurrency run before each point and count nowhere. `max_error_rate` is a share, 0 to 1.
    `timeout_s` is how long a request may go without output, None for the client's own limits.
    """

    profile: str
    prompts: str
    concurrencies: tuple[int, ...]
    requests: int | None
    max_tokens: int
    ignore_eos: bool
    warmup_waves: int
    seed: int
    max_error_rate: float
    timeout_s: float | None = None

    def num_requests(self, concurrency: int) -> int:
        """Measured requests of the point at `concurrency`."""
        return self.requests if self.requests is not None else max(16, 4 * concurrency)

    def num_warmup(self, concurrency: int) -> int:
        """Requests that run before the point at `concurrency`."""
        return self.warmup_waves * concurrency


def parse_concurrency(text: str) -> tuple[int, ...]:
    """The points that `text` names, rising: `1..32` doubles, `1..32:4` steps by 4, `1,3,9` lists.

    The end of a range is always a point: `1..10` is 1, 2, 4, 8, 10.

    Raises:
        UsageError: the text is none of these, or a number is out of range.
    """
    points: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+)(?::(\d+))?)?\s*", part)
        if match is None:
            raise UsageError(f"bad concurrency {text!r}: write 1..32 (doubling), 1..32:4 (steps of 4) or 1,3,9")
        start, end, step = (int(group) if group else None for group in match.groups())
        assert start is not None  # the pattern requires it
        points.update(_range(start, end if end is not None else start, step, text))
    return tuple(sorted(points))


def _range(start: int, end: int, step: int | None, text: str) -> list[int]:
    if not 1 <= start <= end <= MAX_CONCURRENCY:
        raise UsageError(f"bad concurrency {text!r}: want 1 <= first <= last <= {MAX_CONCURRENCY}")
    if step == 0:
        raise UsageError(f"bad concurrency {text!r}: a step of 0 never reaches the end")
    points = []
    value = start
    while value < end:
        points.append(value)
        value = value * 2 if step is None else value + step
    return [*points, end]
