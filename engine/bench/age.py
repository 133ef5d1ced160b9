"""How long this process has existed: imports count when a start is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path

_imported = time.perf_counter()


def process_age_s() -> float:
    """Since the process was made, by Linux's own books; elsewhere since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return time.perf_counter() - _imported
    return uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of the line: when it started
