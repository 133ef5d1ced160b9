"""Projections of one input as one matrix product: q, k and v of an attention, gate and up of an MLP.

The released names stay: each projection remains a module of its own, whose tensors are views of the joined ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Joined:
    """Several linear layers of one input width; separate products until `join` has laid their tensors together."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers = tuple(layers)
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., M] -> the outputs of all layers side by side, [..., sum of widths]."""
        if self._weight is None:
            return torch.cat([layer(x) for layer in self._layers], dim=-1)
        return F.linear(x, self._weight, self._bias)

    def join(self) -> None:
        """Move the layers' tensors, which have their storage and values, into joined ones."""
        self._weight = _lay_together(self._layers, "weight")
        self._bias = None if self._layers[0].bias is None else _lay_together(self._layers, "bias")


def join_projections(model: nn.Module) -> None:
    """Join all that `model` declares; later changes of a parameter must be made in place."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Joined):
                value.join()


def _lay_together(layers: Sequence[nn.Linear], name: str) -> Tensor:
    parts = [getattr(layer, name).detach() for layer in layers]
    whole = torch.cat(parts)
    for layer, part in zip(layers, whole.split([len(part) for part in parts]), strict=True):
        setattr(layer, name, nn.Parameter(part, requires_grad=False))
    return whole
