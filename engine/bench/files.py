"""What benchmarks leave behind, whole at any moment: time on a GPU can end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, result: Mapping[str, Any]) -> None:
    """JSON in the place of what was there; whoever is ended on the way leaves that as it was."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
