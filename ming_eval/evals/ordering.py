"""In which order choices are shown: as in the data, shuffled by a digest, or once in every rotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from ming_eval.evals.digest import digest
from ming_eval.evals.item import Item


class OptionOrder(StrEnum):
    """How choices are ordered."""

    ORIGINAL = "original"
    SHUFFLED = "shuffled"
    CYCLIC = "cyclic"


def orders(item: Item, mode: OptionOrder, seed: int) -> list[tuple[int, ...]]:
    """The orders in which an item is asked; each lists original indices in the order of display.

    Without choices there is one, the empty one.
    """
    count = len(item.choices)
    match mode:
        case OptionOrder.ORIGINAL:
            return [tuple(range(count))]
        case OptionOrder.SHUFFLED:
            return [tuple(sorted(range(count), key=lambda index: digest(seed, item.id, index)))]
        case OptionOrder.CYCLIC:
            return [tuple((start + step) % count for step in range(count)) for start in range(count)] or [()]


def presented(item: Item, order: Sequence[int]) -> Item:
    """The item with its choices in `order` and its answer where that puts it."""
    if not item.choices or not isinstance(item.answer, int):
        return item
    return replace(item, choices=tuple(item.choices[index] for index in order), answer=order.index(item.answer))
