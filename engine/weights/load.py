"""Filling a model from a checkpoint by the rule tables: nothing unused, nothing left empty."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import WeightError
from engine.quantised import Quantised, QuantisedWeight
from engine.weights.checkpoint import Checkpoint
from engine.weights.generated import GeneratedCheckpoint
from engine.weights.rules import COMPONENTS, Place, Rule, Rules, Shard

log = logging.getLogger(__name__)

Source = Checkpoint | GeneratedCheckpoint

EXPERT_PARAMETERS = (".experts.w13", ".experts.w2")
HALVED_PARAMETERS = (".w13", ".gate_up_weight")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which checkpoint tensor fills which place, and what is wrong with that.

    `skipped` maps a name to the reason it is left out on purpose. `missing` has the names that are not there.
    """

    assigned: Mapping[str, tuple[Rule, Place]]
    skipped: Mapping[str, str]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """One sentence per kind of mismatch; empty when the plan is complete."""
        found = []
        if self.unexpected:
            found.append(f"{len(self.unexpected)} tensors have no place in the model: {_some(self.unexpected)}")
        if self.missing:
            found.append(f"{len(self.missing)} parameters are not in the checkpoint: {_some(self.missing)}")
        return found


def make_plan(names: Iterable[str], parameters: Mapping[str, torch.Size], present: Sequence[Rules]) -> Plan:
    """Match tensor names against the rules of the components that are `present`; reads no weights."""
    assigned: dict[str, tuple[Rule, Place]] = {}
    skipped: dict[str, str] = {}
    unexpected: list[str] = []
    open_places = {place for name, shape in parameters.items() for place in _places(name, shape)}
    for name in sorted(names):
        why = _why_skipped(name, present)
        found = None if why else _find(name, present)
        if why:
            skipped[name] = why
        elif found is None or found[1] not in open_places:
            unexpected.append(name)
        else:
            assigned[name] = found
            open_places.remove(found[1])
    missing = sorted(_source_name(place, present) for place in open_places if not _optional(place, present))
    return Plan(assigned, skipped, tuple(unexpected), tuple(missing))


def load_weights(model: nn.Module, checkpoint: Source, shard: Shard, present: Sequence[Rules]) -> Plan:
    """Copy this rank's share of every tensor into `model`, whose parameters must have storage.

    Raises:
        WeightError: the names, or a shape, do not fit the model.
    """
    plan = make_plan(checkpoint.files, stored_shapes(model), present)
    if plan.problems:
        raise WeightError(
            f"{checkpoint.path}: {'; '.join(plan.problems)}. config.json and weights do not belong together"
        )
    fill(model, checkpoint, shard, plan)
    return plan


def stored_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Everything that a checkpoint has to fill, by name."""
    return {name: tensor.shape for name, tensor in stored_tensors(model).items()}


def source_shapes(tensors: Mapping[str, Tensor | Quantised], present: Sequence[Rules]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every checkpoint tensor that fills an unsplit model's `tensors`; optional ones left out."""
    rows = [rule for rules in present for rule in rules.rows]
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        experts, halves = _parts(name, tensor.shape)
        for half in halves:
            first = Place(name, experts[0], half)
            rule = next(rule for rule in rows if rule.source(first) is not None)
            shape = tuple(first.view(tensor).shape)
            sources = (rule.source(Place(name, expert, half)) for expert in experts)
            found |= {source: shape for source in sources if source is not None and not rule.optional}
    return found


def fill(model: nn.Module, checkpoint: Source, shard: Shard, plan: Plan) -> None:
    """Copy what `plan` assigns.

    Raises:
        WeightError: a shape does not fit the model.
    """
    parameters = stored_tensors(model)
    with torch.no_grad():
        for tensor in checkpoint.tensors():
            if tensor.name in plan.assigned:
                rule, place = plan.assigned[tensor.name]
                _copy(rule.keep(tensor, shard), place.view(parameters[place.parameter]), tensor.name)


def present_components(names: Iterable[str]) -> list[Rules]:
    """The components of which the checkpoint holds anything; a tower may be left out as a whole."""
    listed = list(names)
    return [rules for rules in COMPONENTS if any(rules.owns(name) for name in listed)]


def _copy(source: Tensor, target: Tensor | Quantised, name: str) -> None:
    if source.shape != target.shape:
        raise WeightError(
            f"{name}: this rank's part is {tuple(source.shape)}, config.json wants {tuple(target.shape)}; "
            "config.json and weights do not belong together"
        )
    if isinstance(target, Quantised):
        target.fill(source)
        if not target.scales.isfinite().all():
            raise WeightError(f"{name} holds NaN or infinity, which 8 or 4 bits cannot keep; load it with --quant none")
    else:
        target.copy_(source)


def stored_tensors(model: nn.Module) -> dict[str, Tensor | Quantised]:
    """What has to be filled, by the name that a plain model gives it: parameters, packed or not, and the buffers that
    checkpoints may hold."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, QuantisedWeight)}
    state = model.state_dict(keep_vars=True)
    buffers = {n: b for n, b in model.named_buffers() if n in state and n.rpartition(".")[0] not in packed}
    return dict(model.named_parameters()) | {name: module.value for name, module in packed.items()} | buffers


def _places(name: str, shape: torch.Size) -> list[Place]:
    """Everything that has to be written for parameter `name` to be full."""
    experts, halves = _parts(name, shape)
    return [Place(name, expert, half) for expert in experts for half in halves]


def _parts(name: str, shape: torch.Size) -> tuple[Sequence[int | None], Sequence[int | None]]:
    """The experts and the halves that parameter `name` is filled by."""
    experts: Sequence[int | None] = range(shape[0]) if name.endswith(EXPERT_PARAMETERS) else (None,)
    halves: Sequence[int | None] = (0, 1) if name.endswith(HALVED_PARAMETERS) else (None,)
    return experts, halves


def _find(name: str, present: Sequence[Rules]) -> tuple[Rule, Place] | None:
    return next((rules.find(name) for rules in present if rules.owns(name)), None)


def _why_skipped(name: str, present: Sequence[Rules]) -> str | None:
    return next((why for rules in present if (why := rules.skipped(name))), None)


def _optional(place: Place, present: Sequence[Rules]) -> bool:
    optional = (rule.match(rule.pattern) for rules in present for rule in rules.rows if rule.optional)
    return place in optional


def _source_name(place: Place, present: Sequence[Rules]) -> str:
    """The name that an empty place would have in the checkpoint."""
    sources = (rule.source(place) for rules in present for rule in rules.rows)
    return next((name for name in sources if name is not None), place.parameter)


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
