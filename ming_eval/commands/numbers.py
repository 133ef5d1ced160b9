"""Numbers on the command line."""

from __future__ import annotations

import math

import typer


def finite(value: float | None) -> float | None:
    """The value of an option; `nan` passes every comparison with a limit, and an endless number ends nothing.

    Raises:
        typer.BadParameter: it is no finite number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value
