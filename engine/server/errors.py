"""What a client sees when something fails: one exception type and one envelope for every route and stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.errors import EngineError, InvalidRequest, Overloaded

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "rate_limit_error", "server_error", "timeout_error"
]

RETRY_AFTER_S = 5  # for states that pass by themselves: starting, draining, and workers that are replaced


class ApiError(EngineError):
    """A request that ends in an error envelope, as an HTTP response or as an event in a stream."""

    def __init__(
        self,
        status: int,
        kind: ErrorType,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind: ErrorType = kind
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def envelope(self) -> bytes:
        """The JSON body; all four keys are always there."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def bad_request(status: int, code: str, message: str, **headers: str) -> ApiError:
    """An error on the HTTP level that the client caused."""
    return ApiError(status, "invalid_request_error", message, code=code, headers=headers)


def internal_error(request_id: str) -> ApiError:
    """A request that this server cannot answer although nothing is wrong with it; it will fail again."""
    message = f"The server failed to answer this request. Request id: {request_id}"
    return ApiError(500, "server_error", message, code="internal_error", headers={"x-should-retry": "false"})


def unavailable(code: Literal["starting", "draining", "engine_failed", "media_failed"]) -> ApiError:
    """The server takes no work now."""
    message = {
        "starting": "The model is still loading. Try again soon.",
        "draining": "The server is shutting down.",
        "engine_failed": "The engine has stopped.",
        "media_failed": "The processes that decode media are not there. Try again soon.",
    }[code]
    return ApiError(503, "server_error", message, code=code, headers={"Retry-After": str(RETRY_AFTER_S)})


def request_timeout(limit_s: float) -> ApiError:
    """The request took longer than the server allows."""
    return ApiError(504, "timeout_error", f"The request took more than {limit_s:g} s.", code="request_timeout")


def as_api_error(error: InvalidRequest | Overloaded) -> ApiError:
    """The envelope of what validation and admission raise."""
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(error.retry_after_s)}
        return ApiError(429, "rate_limit_error", error.message, code="queue_full", headers=headers)
    return ApiError(error.status, "invalid_request_error", error.message, code=error.code, param=error.param)
