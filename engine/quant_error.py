"""What packing costs in accuracy: the model with packed weights beside the plain one, layer by layer.

Only one layer of either exists at a time, so that a GPU measures models it could not hold. Both see the same random
tokens; each goes on from its own hidden states, and every packed layer also sees the plain model's, which separates
a layer's own error from what it inherits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import EngineConfig, Quant
from engine.errors import ConfigError
from engine.kernels.paged_attention import PagedLayout
from engine.layers.batch import Batch, LayerCache
from engine.layers.quantised import quantise_layers
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.quantised import Quantised
from engine.runtime.build import open_checkpoint, pick_device, pick_dtype
from engine.runtime.kv_cache import CacheShape, allocate
from engine.weights.load import Plan, Source, fill, make_plan, present_components, stored_shapes, stored_tensors
from engine.weights.rules import Shard

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class LayerError:
    """Relative L2 errors of one layer: of its packed weights, of what it adds to the plain model's hidden states,
    and of the hidden states behind it, those of all layers before included."""

    layer: int
    weights: float
    output: float
    hidden: float


@dataclass(frozen=True, slots=True)
class QuantError:
    """Errors by layer, and of the logits: relative L2, mean Kullback-Leibler divergence in nats, and the share of
    positions whose most likely token stays the same."""

    quant: Quant
    num_tokens: int
    dtype: str
    layers: tuple[LayerError, ...]
    logits: float
    kl_nats: float
    same_top1: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text."""
        head = f"{self.quant} against {self.dtype}, {self.num_tokens} random tokens, relative L2 errors:"
        rows = [f"{e.layer:>5} {e.weights:>9.2%} {e.output:>9.2%} {e.hidden:>9.2%}" for e in self.layers]
        tail = f"logits {self.logits:.2%}, KL {self.kl_nats:.4f} nats, same most likely token {self.same_top1:.1%}"
        return [head, f"{'layer':>5} {'weights':>9} {'output':>9} {'hidden':>9}", *rows, tail]


@torch.inference_mode()
def measure(config: EngineConfig, num_tokens: int = 64, seed: int = 0) -> QuantError:
    """Errors of `config.quant` on `num_tokens` random tokens of one sequence, on one device.

    Raises:
        ConfigError: there is nothing to measure, or the model's widths do not allow it.
    """
    if config.quant == "none":
        raise ConfigError("--quant-error needs --quant fp8 or --quant int4")
    pair = _Pair.open(config)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(pair.plain.cfg.llm.vocab_size, (num_tokens,), generator=generator).to(pair.device)
    with pair.resident("model.word_embeddings"):
        x = pair.plain.embed(ids)
    batch, caches = _one_sequence(num_tokens, pair)
    pair.plain.reset_tables(pair.device)
    rotation = pair.plain.model.rotary_emb(batch.positions, x.dtype)
    # Each is a residual stream and what is yet to be added to it.
    want: State = (x, torch.zeros_like(x))
    got: State = (x.clone(), torch.zeros_like(x))
    errors = []
    for i in range(pair.plain.cfg.llm.num_hidden_layers):
        with pair.resident(f"model.layers.{i}"):
            plain, packed = pair.plain.model.layers[i], pair.packed.model.layers[i]
            after, own = plain(*want, rotation, caches[0], batch), packed(*want, rotation, caches[1], batch)
            got = packed(*got, rotation, caches[1], batch)
            weights = pair.weight_error(f"model.layers.{i}.")
            output = _error(_sum(own) - _sum(want), _sum(after) - _sum(want))
            errors.append(LayerError(i, weights, output, _error(_sum(got), _sum(after))))
            want = after
    with pair.resident("model.norm"), pair.resident("model.lm_head"):
        expected = pair.plain.logits(pair.plain.model.norm(*want)[1])
        found = pair.packed.logits(pair.packed.model.norm(*got)[1])
    return _report(config.quant, pair.dtype, errors, found, expected)


State = tuple[Tensor, Tensor]


def _sum(state: State) -> Tensor:
    return state[0].float() + state[1].float()


def _report(quant: Quant, dtype: torch.dtype, layers: list[LayerError], got: Tensor, want: Tensor) -> QuantError:
    """Compares logits [T, V]."""
    want_log, got_log = want.log_softmax(dim=-1), got.log_softmax(dim=-1)
    kl = (want_log.exp() * (want_log - got_log)).sum(dim=-1).mean()
    same = (want.argmax(dim=-1) == got.argmax(dim=-1)).float().mean()
    name = str(dtype).removeprefix("torch.")
    return QuantError(quant, len(want), name, tuple(layers), _error(got, want), float(kl), float(same))


@dataclass(frozen=True)
class _Pair:
    """Two models without storage over one source of weights; parts of them become resident in turn."""

    plain: Ming
    packed: Ming
    source: Source
    plan: Plan
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def open(cls, config: EngineConfig) -> _Pair:
        cfg, device = load_model_config(Path(config.model)), pick_device(config, TensorParallel())
        source = open_checkpoint(config, cfg, device)
        dtype, present = pick_dtype(config, source), present_components(source.files)
        with torch.device("meta"):
            plain, packed = (Ming(cfg, TensorParallel(), vision=False, audio=False).to(dtype) for _ in range(2))
        quantise_layers(packed.model, config.quant)
        plan = make_plan(source.files, stored_shapes(plain), present)
        return cls(plain, packed, source, plan, device, dtype)

    @contextmanager
    def resident(self, name: str) -> Iterator[None]:
        """Submodule `name` of both has its weights inside the `with`."""
        parts = [model.get_submodule(name) for model in (self.plain, self.packed)]
        for part in parts:
            part.to_empty(device=self.device).requires_grad_(False)
        mine = {n: found for n, found in self.plan.assigned.items() if found[1].parameter.startswith(name + ".")}
        shard = Shard(TensorParallel(), self.plain.cfg.llm)
        fill(self.plain, self.source, shard, Plan(mine, {}, (), ()))
        _copy(*parts)
        yield
        for part in parts:
            part.to_empty(device="meta")

    def weight_error(self, prefix: str) -> float:
        """Over all packed weights whose names begin with `prefix`."""
        plain = stored_tensors(self.plain)
        wrong = total = 0.0
        for name, packed in stored_tensors(self.packed).items():
            if name.startswith(prefix) and isinstance(packed, Quantised):
                whole = plain[name]
                assert isinstance(whole, Tensor)
                for value, weight in _matrices(packed, whole):
                    wrong += float((value.dequantise(torch.float32) - weight.float()).square().sum())
                    total += float(weight.float().square().sum())
        return float((wrong / total) ** 0.5)


def _copy(plain: nn.Module, packed: nn.Module) -> None:
    """Give `packed` the weights of `plain`, an expert at a time."""
    weights = stored_tensors(plain)
    for name, target in stored_tensors(packed).items():
        source = weights[name]
        assert isinstance(source, Tensor)
        if isinstance(target, Quantised):
            for value, weight in _matrices(target, source):
                value.fill(weight)
        else:
            target.copy_(source)


def _matrices(packed: Quantised, weight: Tensor) -> Iterator[tuple[Quantised, Tensor]]:
    """An expert at a time: what packing needs in between is several times as large."""
    if weight.dim() == 2:
        yield packed, weight
    else:
        yield from ((packed[i], weight[i]) for i in range(len(weight)))


def _one_sequence(num_tokens: int, pair: _Pair) -> tuple[Batch, list[LayerCache]]:
    """A prompt of text, and a cache for each of the two models that every layer uses anew."""
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    shape = CacheShape.of(pair.plain.cfg.llm, TensorParallel(), BLOCK_SIZE, pair.dtype)
    at = torch.arange(num_tokens, device=pair.device)
    lengths = torch.tensor([num_tokens], device=pair.device)
    layout = PagedLayout(torch.arange(num_blocks, device=pair.device)[None], lengths, 0, (0, num_tokens), (num_tokens,))
    batch = Batch(at.expand(3, -1).contiguous(), at, layout)
    return batch, allocate(shape, num_blocks, pair.device)[:2]


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())
