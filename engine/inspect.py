"""`inspect` and `verify`: what a checkpoint holds and needs, without reading weights.

Both work on a directory that has only `config.json` and the index file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import DType, Quant
from engine.errors import EngineError
from engine.inspect_speech import SpeechInspection, inspect_speech, is_talker_alone
from engine.layers.quantised import quantise_layers
from engine.model_config import ModelConfig, load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.quantised import QuantisedWeight
from engine.runtime.build import TORCH_DTYPES
from engine.runtime.kv_cache import CacheShape, available_memory_bytes
from engine.talker_config import find_talker
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import Plan, make_plan, present_components
from engine.weights.rules import AUDIO, VISION

GIB = 1 << 30
WORKSPACE_BYTES = 2 * GIB  # activations, sampler and allocator slack beside weights and cache


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that can be said of a checkpoint from its configuration and index."""

    path: Path
    config: ModelConfig
    plan: Plan
    missing_files: list[str]
    num_files: int
    families: dict[str, tuple[int, int]]  # name pattern -> tensors, elements
    parameters: dict[str, int]  # component -> parameters on one rank
    bytes: dict[str, int]  # component -> bytes of them, packed as `quant` says
    dtype: torch.dtype
    quant: Quant
    tp: int
    cache_bytes_per_token: int
    memory_bytes: int
    memory_of: str
    speech: SpeechInspection | None

    @property
    def weight_bytes(self) -> int:
        """Weights of one rank."""
        return sum(self.bytes.values())

    @property
    def cache_tokens(self) -> int:
        """Tokens of key/value cache that the memory of one rank holds beside the weights."""
        return max(0, (self.memory_bytes - self.weight_bytes - WORKSPACE_BYTES) // self.cache_bytes_per_token)

    @property
    def fits(self) -> bool:
        """Weights, workspace and one sequence of full length."""
        return self.cache_tokens >= self.config.llm.max_position_embeddings

    def as_json(self) -> dict[str, Any]:
        """The whole inspection as plain data."""
        llm = self.config.llm
        return {
            "path": str(self.path),
            "model_type": self.config.model_type,
            "layers": llm.num_hidden_layers,
            "hidden_size": llm.hidden_size,
            "experts": llm.num_experts,
            "experts_per_token": llm.num_experts_per_tok,
            "vocab_size": llm.vocab_size,
            "context_length": llm.max_position_embeddings,
            "vision_tower": self.config.vision is not None,
            "audio_tower": self.config.audio is not None,
            "unknown_config_keys": self.config.unknown_keys(),
            "files": self.num_files,
            "missing_files": self.missing_files,
            "families": [{"name": n, "tensors": t, "elements": e} for n, (t, e) in self.families.items()],
            "problems": self.plan.problems,
            "tp": self.tp,
            "dtype": str(self.dtype).removeprefix("torch."),
            "quant": self.quant,
            "parameters_per_rank": self.parameters,
            "weight_bytes_per_rank": self.weight_bytes,
            "cache_bytes_per_token_per_rank": self.cache_bytes_per_token,
            "memory_bytes_per_rank": self.memory_bytes,
            "memory_of": self.memory_of,
            "cache_tokens": self.cache_tokens,
            "fits": self.fits,
            "speech": None if self.speech is None else self.speech.as_json(),
        }


def inspect(path: Path, tp: int, dtype: DType, memory_gib: float | None, quant: Quant = "none") -> Inspection:
    """Look at the checkpoint in `path` as rank 0 of `tp` would load it.

    Raises:
        EngineError: the configuration or the index cannot be read, or `tp` does not divide the model.
    """
    config = load_model_config(path)
    checkpoint = Checkpoint(path)
    whole, rank = _empty(config, checkpoint, 1), _empty(config, checkpoint, tp)
    plan = _plan(whole, checkpoint)
    stored = TORCH_DTYPES.get(dtype) or torch.bfloat16  # without weights at hand: what the release stores
    if dtype == "auto" and not checkpoint.missing_files():
        stored = checkpoint.stored_dtype("model.model.word_embeddings.weight")
    parameters = _parameters(rank)
    quantise_layers(rank.model, quant)
    shape = CacheShape.of(config.llm, TensorParallel(0, tp), 1, stored)
    memory, owner = _memory(memory_gib)
    return Inspection(
        path=path,
        config=config,
        plan=plan,
        missing_files=checkpoint.missing_files(),
        num_files=len(set(checkpoint.files.values())),
        families=_families(plan, whole),
        parameters=parameters,
        bytes=_bytes(rank, stored),
        dtype=stored,
        quant=quant,
        tp=tp,
        cache_bytes_per_token=shape.block_bytes,
        memory_bytes=memory,
        memory_of=owner,
        speech=inspect_speech(path),
    )


def _empty(config: ModelConfig, checkpoint: Checkpoint, tp: int) -> Ming:
    """The model without storage."""
    present = present_components(checkpoint.files)
    with torch.device("meta"):
        return Ming(config, TensorParallel(0, tp), vision=VISION in present, audio=AUDIO in present)


def _plan(model: Ming, checkpoint: Checkpoint) -> Plan:
    shapes = {name: tensor.shape for name, tensor in _tensors(model).items()}
    return make_plan(checkpoint.files, shapes, present_components(checkpoint.files))


def _tensors(model: Ming) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in model.state_dict()}


def _families(plan: Plan, model: Ming) -> dict[str, tuple[int, int]]:
    """Tensors grouped by their name with numbers replaced, in order of size."""
    tensors = _tensors(model)
    found: dict[str, tuple[int, int]] = {}
    for name, (_, place) in plan.assigned.items():
        family = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        count, elements = found.get(family, (0, 0))
        found[family] = (count + 1, elements + prod(place.view(tensors[place.parameter]).shape))
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def _parameters(model: Ming) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in _components(model)}


def _bytes(model: Ming, dtype: torch.dtype) -> dict[str, int]:
    """Plain parameters in `dtype`, packed ones with their scales."""
    plain = {name: n * dtype.itemsize for name, n in _parameters(model).items()}
    return {
        name: plain[name] + sum(m.value.num_bytes for m in part.modules() if isinstance(m, QuantisedWeight))
        for name, part in _components(model)
    }


def _components(model: Ming) -> list[tuple[str, nn.Module]]:
    parts = [("thinker", model.model), ("vision tower", model.vision_encoder), ("audio tower", model.audio_encoder)]
    return [(name, part) for name, part in parts if part is not None]


def _memory(memory_gib: float | None) -> tuple[int, str]:
    if memory_gib is not None:
        return int(memory_gib * GIB), "as given"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    return available_memory_bytes(), "this machine's available memory"


def _size(num_bytes: int) -> str:
    """GiB, or MiB where that would say 0.00."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / (1 << 20):.1f} MiB"


def _report(found: Inspection) -> str:
    llm = found.config.llm
    routing = f"{llm.topk_group} of {llm.n_group} groups, scaling {llm.routed_scaling_factor}"
    lines = [
        f"{found.path}",
        f"  model       {found.config.model_type}: {llm.num_hidden_layers} layers, hidden {llm.hidden_size}, "
        f"{llm.num_experts} experts of which {llm.num_experts_per_tok} per token, vocabulary {llm.vocab_size}, "
        f"context {llm.max_position_embeddings}",
        f"  router      {llm.router_type}, {routing}",
        f"  unknown     {', '.join(found.config.unknown_keys()) or 'no unknown configuration keys'}",
        f"  files       {found.num_files}, {len(found.missing_files)} missing"
        + (f" ({', '.join(found.missing_files[:3])}{' ...' if len(found.missing_files) > 3 else ''})"
           if found.missing_files else ""),
        "",
        f"  {'tensor family':<62}{'tensors':>9}{'elements':>18}",
    ]  # fmt: skip
    lines += [f"  {name:<62}{count:>9,}{elements:>18,}" for name, (count, elements) in found.families.items()]
    total = sum(elements for _, elements in found.families.values())
    lines += [f"  {'total':<62}{len(found.plan.assigned):>9,}{total:>18,}", ""]
    lines += [f"  problem     {problem}" for problem in found.plan.problems]
    lines += [f"  skipped     {name}: {why}" for name, why in found.plan.skipped.items()]
    dtype = str(found.dtype).removeprefix("torch.")
    packed = "" if found.quant == "none" else f", packed as {found.quant}"
    lines += [f"  per rank at tp {found.tp} in {dtype}{packed}:"]
    lines += [f"    {name:<14}{n / GIB:>9.2f} GiB" for name, n in found.bytes.items()]
    lines += [
        f"    {'cache':<14}{found.cache_bytes_per_token / 1024:>9.1f} KiB a token",
        f"    {'memory':<14}{found.memory_bytes / GIB:>9.2f} GiB ({found.memory_of})",
        f"  {'fits' if found.fits else 'does not fit'}: {found.cache_tokens:,} tokens of cache beside weights and "
        f"{WORKSPACE_BYTES / GIB:.0f} GiB of workspace; one full context needs {llm.max_position_embeddings:,}",
    ]
    return "\n".join(lines if found.speech is None else [*lines, "", found.speech.report()])


def _verify(path: Path) -> int:
    """Thinker and talker, as far as they are there; exit code."""
    if is_talker_alone(path):
        return _verify_speech(path)
    codes = [_verify_thinker(path)]
    if find_talker(path) is not None:
        codes.append(_verify_speech(path))
    return max(codes)


def _verify_speech(path: Path) -> int:
    found = inspect_speech(path)
    assert found is not None
    for problem in found.problems:
        print(f"{found.folder}: {problem}")
    if not found.problems:
        print(f"{found.folder}: ok, {found.num_tensors} tensors fill talker and audio VAE ({found.checked})")
    return 1 if found.problems else 0


def _verify_thinker(path: Path) -> int:
    """Strict dry run of the rule table against the index, and against the files' headers where the files are here."""
    config, checkpoint = load_model_config(path), Checkpoint(path)
    model = _empty(config, checkpoint, 1)
    plan = _plan(model, checkpoint)
    missing, num_files = checkpoint.missing_files(), len(set(checkpoint.files.values()))
    problems = list(plan.problems)
    if 0 < len(missing) < num_files:
        problems.append(f"{len(missing)} of {num_files} weight files are not here: {', '.join(missing[:4])}")
    elif not missing:
        problems += _wrong_shapes(plan, checkpoint, _tensors(model))
    for problem in problems:
        print(f"{path}: {problem}")
    if not problems:
        checked = "names only, no weight file is here" if missing else "names and shapes"
        print(
            f"{path}: ok, {len(plan.assigned)} tensors fill the model exactly, {len(plan.skipped)} skipped ({checked})"
        )
    return 1 if problems else 0


def _wrong_shapes(plan: Plan, checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors whose stored shape is not the model's; opening the files also finds damaged ones."""
    found = []
    for tensor in checkpoint.tensors():
        if tensor.name in plan.assigned:
            place = plan.assigned[tensor.name][1]
            wanted = tuple(place.view(tensors[place.parameter]).shape)
            if tensor.shape != wanted:
                found.append(f"{tensor.name} is {tensor.shape}, config.json wants {wanted}")
    return found[:8]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ming-eval model", description="Look at a checkpoint without reading weights."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("inspect", "configuration, tensor families, what is missing, memory per rank"),
        ("verify", "check every tensor name of the index against the model"),
    ):
        command = commands.add_parser(name, help=text, epilog=f"example: ming-eval model {name} ./Ming-flash-omni-2.0")
        command.add_argument(
            "path",
            type=Path,
            nargs="?",
            metavar="PATH",
            help="snapshot directory (config.json and index suffice); without it, the embedded tiny model",
        )
        if name == "inspect":
            command.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks, e.g. 4")
            command.add_argument("--dtype", choices=["auto", *TORCH_DTYPES], default="auto", help="weights and cache")
            command.add_argument("--quant", choices=["none", "fp8", "int4"], default="none", help="as serve packs them")
            command.add_argument("--memory", type=float, metavar="GIB", help="memory of one device, e.g. 141")
            command.add_argument("--json", metavar="PATH", help="write everything here; - is standard output")
    return parser


def main(argv: list[str]) -> int:
    """Exit code 0: fine; 1: verify found problems; 2: the checkpoint cannot be looked at."""
    args = _parser().parse_args(argv)
    try:
        path = args.path or _tiny()
        if args.command == "verify":
            return _verify(path)
        if is_talker_alone(path):
            return _show_speech(path, args.json)
        found = inspect(path, args.tp, args.dtype, args.memory, args.quant)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _show(found, args.json)


def _tiny() -> Path:
    from engine.tiny import ensure_snapshot  # needs torch, which looking at a checkpoint does not

    return ensure_snapshot()


def _show_speech(path: Path, json_path: str | None) -> int:
    found = inspect_speech(path)
    assert found is not None
    return _print({"path": str(path), "speech": found.as_json()}, found.report(), json_path)


def _show(found: Inspection, json_path: str | None) -> int:
    return _print(found.as_json(), _report(found), json_path)


def _print(tree: Mapping[str, Any], report: str, json_path: str | None) -> int:
    text = json.dumps(tree, indent=1)
    if json_path and json_path != "-":
        Path(json_path).write_text(text + "\n", encoding="utf-8")
    try:
        print(text if json_path == "-" else report, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what is still buffered must not be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
