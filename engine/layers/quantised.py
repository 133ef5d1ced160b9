"""Which weights of the thinker are kept in fewer bits, and how a layer exchanges its parameter for packed storage."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from engine.config import Quant
from engine.errors import ConfigError
from engine.quantised import GROUP, Format, QuantisedWeight

Stored = nn.Parameter | QuantisedWeight


@runtime_checkable
class Quantisable(Protocol):
    """A layer whose weights can be packed: the projections, the gated MLPs, the experts and the output head.

    Embeddings are looked up, norms and gates are small and decide much, and the towers run once a medium: they stay.
    """

    def quantise(self, quant: Quant) -> None:
        """Exchange the weights, still without storage, for packed ones."""


def quantise_layers(model: nn.Module, quant: Quant) -> None:
    """Exchange every weight that `quant` packs; call it before the model gets storage, and on no model twice.

    Raises:
        ConfigError: a width does not divide into groups.
    """
    if quant == "none":
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, Quantisable):
            try:
                module.quantise(quant)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None


def quantise_parameter(
    module: nn.Module, name: str, format: Format, block: tuple[int, int], parts: int = 1
) -> QuantisedWeight:
    """Packed storage instead of parameter `name` of `module`; `parts` of its rows are filled one by one.

    Raises:
        ConfigError: the width does not divide into groups.
    """
    shape = tuple(getattr(module, name).shape)
    if format == "int4" and shape[-1] % GROUP:
        raise ConfigError(
            f"--quant int4 needs a multiple of {GROUP} input columns on each rank, {name} has {shape[-1]}; "
            "lower --tp, or choose --quant fp8"
        )
    rows = block[0]
    while shape[-2] // parts % rows and rows > 1:
        rows //= 2
    delattr(module, name)
    return QuantisedWeight(format, shape, (rows, block[1]))
