"""Filling talker and audio VAE, wherever a packaging keeps them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.errors import WeightError
from engine.parallel import TensorParallel
from engine.talker_config import TALKER_FOLDER, VAE_FOLDER
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import Plan, fill, make_plan, stored_shapes
from engine.weights.rules import Rules, Shard
from engine.weights.speech_rules import EMBEDDING, TALKER, VAE, vae_rules

log = logging.getLogger(__name__)

_WHOLE = Shard(TensorParallel())  # the speech part is never split


def load_talker(model: nn.Module, folder: Path) -> None:
    """Fill a talker from the files in its directory.

    Raises:
        WeightError: there are none, tensors are missing, or a shape does not fit.
    """
    checkpoint, plan = plan_talker(model, folder)
    if plan.missing:
        raise WeightError(f"{folder}: {'; '.join(plan.problems)}; the talker's files are incomplete")
    _fill(model, checkpoint, plan)


def plan_talker(model: nn.Module, folder: Path) -> tuple[Checkpoint, Plan]:
    """The talker's files and what of them goes where; reads names only."""
    checkpoint = Checkpoint(folder)
    return checkpoint, _plan(model, checkpoint, TALKER, other=VAE)


def plan_vae(model: nn.Module, folder: Path, unused_layers: Iterable[int] = ()) -> list[tuple[Checkpoint, Plan]]:
    """The same of every place that holds some of an audio VAE, up to the first that is complete, which is last."""
    rules, plans = vae_rules(unused_layers), []
    for source in find_vae(folder):
        plans.append((source.checkpoint, _plan(model, source.checkpoint, rules, other=TALKER, only=source.shared)))
        if not plans[-1][1].missing:
            break
    return plans


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype in which the talker in `folder` is stored.

    Raises:
        WeightError: its files hold no talker.
    """
    checkpoint = Checkpoint(folder)
    for name in checkpoint.files:
        if TALKER.unwrap(name) == EMBEDDING:
            return checkpoint.stored_dtype(name)
    raise WeightError(f"{folder}: no tensor {EMBEDDING}; the talker's files are incomplete")


def load_vae(model: nn.Module, folder: Path, unused_layers: Iterable[int] = ()) -> None:
    """Fill an audio VAE from the first place that holds a whole one: `vae/` in the talker's directory `folder`, the
    talker's own files, the files of the snapshot around it.

    Raises:
        WeightError: no place does; the message says what each lacks.
    """
    plans = plan_vae(model, folder, unused_layers)
    if not plans or plans[-1][1].missing:
        raise WeightError(no_vae(folder, plans))
    _fill(model, *plans[-1])


def no_vae(folder: Path, plans: Sequence[tuple[Checkpoint, Plan]]) -> str:
    """Why there is no audio VAE: what each place lacks."""
    lacking = [f"{checkpoint.path}: {'; '.join(plan.problems)}" for checkpoint, plan in plans]
    nowhere = f"no weights in {VAE_FOLDER}/ or beside it"
    return f"no complete audio VAE for {folder}: " + (" | ".join(lacking) or nowhere)


@dataclass(frozen=True, slots=True)
class VAESource:
    """A place where an audio VAE may be; in a `shared` one other components are expected too."""

    checkpoint: Checkpoint
    shared: bool


def find_vae(folder: Path) -> Iterator[VAESource]:
    """The places that exist and hold some of a VAE, the most specific first."""
    places = [VAESource(Checkpoint(folder / VAE_FOLDER), False), VAESource(Checkpoint(folder), True)]
    if folder.name == TALKER_FOLDER:
        places.append(VAESource(Checkpoint(folder.parent), True))
    for place in places:
        if any(place.checkpoint.path.glob("*.safetensors")) and any(map(VAE.owns, place.checkpoint.files)):
            yield place


def _plan(model: nn.Module, checkpoint: Checkpoint, rules: Rules, other: Rules, only: bool = False) -> Plan:
    """Match names, leaving out those of the `other` component, or all but those of this one."""
    names = [n for n in checkpoint.files if (rules.owns(n) if only else not other.owns(n))]
    return make_plan(names, stored_shapes(model), [rules])


def _fill(model: nn.Module, checkpoint: Checkpoint, plan: Plan) -> None:
    if plan.unexpected:
        log.warning(
            "%s: %d tensors are not used: %s", checkpoint.path, len(plan.unexpected), ", ".join(plan.unexpected)
        )
    fill(model, checkpoint, _WHOLE, plan)
