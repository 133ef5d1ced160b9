"""What a command line may not say, for all commands that measure or read."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand


class StrictCommand(TyperCommand):
    """Refuses what would be taken without a word: an option that counts once given twice, a number that is none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As its base class.

        Raises:
            typer.BadParameter: an option stands twice, or is not a finite number (also where a file says so).
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for param, count in Counter(order).items():
            if count > 1 and not getattr(param, "multiple", False):
                raise typer.BadParameter("it stands there twice, and only one can count.", ctx=ctx, param=param)
        rest: list[str] = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name)
            if isinstance(value, float) and not math.isfinite(value):  # nan passes every comparison with a limit
                raise typer.BadParameter(f"{value} is not a finite number.", ctx=ctx, param=param)
        return rest
