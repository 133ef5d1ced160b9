"""Models that are created without storage, and get it once it is known where and in which dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def add_table(module: nn.Module, name: str, values: Callable[[], Tensor]) -> None:
    """A computed buffer that no checkpoint holds; it has its values even where parameters are made without storage."""
    with torch.device("cpu"):
        module.register_buffer(name, values(), persistent=False)


def allocate(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give storage to parameters made without; tables keep their values, and their dtype."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
        for name, table in module.named_buffers(recurse=False):
            setattr(module, name, table.to(device))
