"""Whether a run asked the same as an earlier one, byte by byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ming_eval.types import RequestRecord


@dataclass(frozen=True, slots=True)
class Repeated:
    """Requests of two runs by digest; `missing` are in one of them only, `unknown` were stored without a digest."""

    same: int
    other: tuple[str, ...]
    missing: int
    unknown: int

    @property
    def is_exact(self) -> bool:
        """True when every request that can be compared is the same."""
        return not self.other

    def __str__(self) -> str:
        total = self.same + len(self.other)
        notes = [f"{self.missing} in one run only"] if self.missing else []
        notes += [f"{self.unknown} stored without a digest"] if self.unknown else []
        notes += [f"the first that differs is {self.other[0]}"] if self.other else []
        return f"request bodies: {self.same} of {total} are the same bytes" + "".join(f", {note}" for note in notes)


def compare_requests(
    first: Iterable[RequestRecord], second: Iterable[RequestRecord], *, hold_replies: bool = True
) -> Repeated:
    """Warm-up included; a request is known by its backend and its id.

    Later turns of a conversation that `hold_replies` of the server are left out: another answer makes another request.
    """
    firsts, seconds = (
        {
            (record.backend, record.id): record.request_sha256
            for record in each
            if not (hold_replies and (record.turn or 1) > 1)
        }
        for each in (first, second)
    )
    shared = [key for key in firsts if key in seconds]
    known = [key for key in shared if firsts[key] is not None and seconds[key] is not None]
    other = tuple(name for backend, name in known if firsts[backend, name] != seconds[backend, name])
    missing = len(firsts) + len(seconds) - 2 * len(shared)
    return Repeated(len(known) - len(other), other, missing, len(shared) - len(known))
