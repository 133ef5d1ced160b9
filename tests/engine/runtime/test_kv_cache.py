"""Memory is asked for before it is taken."""

from __future__ import annotations

import pytest
import torch

from engine.errors import ConfigError
from engine.runtime.kv_cache import check_room


def test_weights_that_no_memory_holds() -> None:
    check_room(1 << 20, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"a rank take 1000000\.0 GB, and cpu has [\d.]+; raise --tp, pack them"):
        check_room(10**15, torch.device("cpu"))
