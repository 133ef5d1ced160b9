"""Which failures are tried again, and when."""

from __future__ import annotations

from dataclasses import dataclass

from ming_eval.types import Failure

_RETRIED = frozenset(
    {
        Failure.CONNECT,
        Failure.RESET,
        Failure.EARLY_EOF,
        Failure.TIMEOUT_FIRST,
        Failure.TIMEOUT_IDLE,
        Failure.TIMEOUT_TOTAL,
        Failure.HTTP_429,
        Failure.HTTP_5XX,
    }
)
_REQUEST_TIMEOUT = 408


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """One more attempt after each of `waits_s`; a server's hint replaces a wait, up to `longest_wait_s`."""

    waits_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    longest_wait_s: float = 60.0

    def wait_s(
        self, num_attempts: int, failure: Failure | None, http_status: int | None, hint_s: float | None
    ) -> float | None:
        """How long to wait when the last of `num_attempts` has ended so; None when there is no other one."""
        is_retried = failure in _RETRIED or (failure is Failure.HTTP_4XX and http_status == _REQUEST_TIMEOUT)
        if not is_retried or num_attempts > len(self.waits_s):
            return None
        return self.waits_s[num_attempts - 1] if hint_s is None else min(hint_s, self.longest_wait_s)
