"""The libraries that decode media come with the `engine` extra; this says so when one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ConfigError


@contextmanager
def engine_extra(package: str) -> Iterator[None]:
    """Wrap the import of a package of the `engine` extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{package} is not installed ({error}); run: pip install 'ming-eval[engine]'") from None
