"""The engine's error tree.

    EngineError
    ├── ConfigError      the checkpoint's or the operator's configuration cannot work
    ├── WeightError      a tensor is missing, unexpected or of the wrong shape
    ├── InvalidRequest   the client sent something that cannot be served (HTTP 4xx)
    ├── Overloaded       admission limits reached (HTTP 429)
    └── WorkerDied       a model process ended; the engine cannot go on

Every message names the thing, the value and the way out.
"""

from __future__ import annotations

RANK_DIED = 70  # exit code of a process that lost a tensor-parallel rank, or the agent that started it


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class ConfigError(EngineError):
    """A configuration that would miswire the model silently."""


class WeightError(EngineError):
    """A checkpoint whose tensors do not fill the model exactly."""


class InvalidRequest(EngineError):
    """A request that cannot be served; maps to one HTTP error envelope.

    `param` is the JSON field at fault, `code` the machine-readable code of the HTTP contract.
    """

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


class Overloaded(EngineError):
    """Admission limits are reached; `retry_after_s` is what the client should wait."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class WorkerDied(EngineError):
    """A model process ended while requests were open."""
