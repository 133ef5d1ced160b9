"""Numbers on their way from the device to the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fetch:
    """A tensor under way; reading it waits for this copy, not for later steps."""

    values: Tensor
    done: torch.cuda.Event | None

    @staticmethod
    def start(values: Tensor) -> Fetch:
        """Begin to copy values of the device, which the next step may overwrite."""
        if not values.is_cuda:
            return Fetch(values.clone(), None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Fetch(host, done)

    def wait(self) -> Tensor:
        """The values, on the host."""
        if self.done is not None:
            self.done.synchronize()
        return self.values
