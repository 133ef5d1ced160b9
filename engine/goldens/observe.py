"""Watching the thinker through forward hooks, so that the model carries no code for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.layers.moe import SparseMoE
from engine.models.thinker import Ming

HEAD_MAJOR = ("q_pre_rope", "k_pre_rope", "q_post_rope", "k_post_rope")  # cases store these as [H, T, C]


class Observations:
    """What submodules returned, call after call, under the names of the cases."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Tensor]] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Keep one call's result, token-major."""
        self._seen.setdefault(name, []).append(value.clone())

    def tensors(self, num_tokens: int | None = None) -> dict[str, Tensor]:
        """The results of successive chunks joined, cut to the first `num_tokens` tokens."""
        joined = {name: torch.cat(parts)[:num_tokens] for name, parts in self._seen.items()}
        return {n: x.transpose(0, 1) if n.endswith(HEAD_MAJOR) else x for n, x in joined.items()}

    def calls(self, name: str) -> list[Tensor]:
        """Each call's result."""
        return self._seen.get(name, [])


@contextmanager
def observed(model: Ming) -> Iterator[Observations]:
    """Collect intermediates of every forward pass while the context is open."""
    seen = Observations()
    handles = [
        *(handle for i, layer in enumerate(model.model.layers) for handle in _watch_layer(layer, f"layer.{i}.", seen)),
        model.model.layers[0].register_forward_pre_hook(lambda _m, args: seen.add("inputs_embeds", args[0])),
        model.model.norm.register_forward_hook(lambda _m, _args, out: seen.add("final_norm", out[1])),
        *(_watch(tower, name, seen) for name, tower in _towers(model)),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _towers(model: Ming) -> list[tuple[str, nn.Module]]:
    found = (("vision_encoder", model.vision_encoder), ("audio_encoder", model.audio_encoder))
    return [(name, tower) for name, tower in found if tower is not None]


def _watch(module: nn.Module, name: str, seen: Observations) -> Any:
    return module.register_forward_hook(lambda _module, _args, out: seen.add(name, out))


def _watch_layer(layer: Any, prefix: str, seen: Observations) -> Iterator[Any]:
    # A layer leaves the last sum of the residual stream to the norm behind it.
    yield layer.register_forward_hook(lambda _m, _args, out: seen.add(prefix + "output", out[0] + out[1]))
    yield _watch(layer.attention, prefix + "attention", seen)
    yield _watch(layer.mlp, prefix + "mlp", seen)
    yield layer.attention.norm_rotate_store.register_forward_hook(_rotated(layer.attention, prefix, seen))
    if isinstance(layer.mlp, SparseMoE):
        yield layer.mlp.router.register_forward_hook(_routed(prefix, seen))


def _rotated(attention: Any, prefix: str, seen: Observations) -> Any:
    """Norm, rotation and cache write are one operation: its input is normed once more, the keys are in the cache."""

    def hook(_module: nn.Module, args: Any, rotated: Tensor) -> None:
        q, k, _v, _norms, _rotation, cache, slots = args
        seen.add(prefix + "q_pre_rope", attention.q_norm(q))
        seen.add(prefix + "k_pre_rope", attention.k_norm(k))
        seen.add(prefix + "q_post_rope", rotated)
        seen.add(prefix + "k_post_rope", cache.k.flatten(0, 1)[slots])

    return hook


def _routed(prefix: str, seen: Observations) -> Any:
    """Chosen experts sorted by id (their order carries no meaning), and what every gate says of every token."""

    def hook(router: Any, args: tuple[Tensor, Any], out: tuple[Tensor, Tensor]) -> None:
        ids, order = out[0].sort(dim=-1)
        seen.add(prefix + "topk_ids", ids)
        seen.add(prefix + "topk_weights", out[1].gather(1, order))
        for name in ("gate", "image_gate", "audio_gate"):
            gate = getattr(router, name)
            if gate is not None:
                seen.add(f"{prefix}{name}.logits", gate(args[0]))

    return hook
