"""IFEval: ids and arguments of the instructions in two columns -> one list."""

from __future__ import annotations

from typing import Any


def instructions(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `instructions`; arguments that are null do not belong to an instruction."""
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    found = [
        {"id": name, "arguments": {key: value for key, value in arguments.items() if value is not None}}
        for name, arguments in pairs
    ]
    return row | {"instructions": found}
