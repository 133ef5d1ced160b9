"""One table per component: checkpoint name -> parameter, and the part of the tensor that this rank keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from engine.model_config import LLMConfig
from engine.parallel import TensorParallel
from engine.quantised import Quantised
from engine.weights.checkpoint import LazyTensor


@dataclass(frozen=True, slots=True)
class Shard:
    """What a placement needs to know: whose share, and of which thinker (a model that is never split has none)."""

    tp: TensorParallel
    llm: LLMConfig | None = None


Keep = Callable[[LazyTensor, Shard], Tensor]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor goes: a parameter, or expert `expert` of it, or half `half` of its rows (gate 0, up 1)."""

    parameter: str
    expert: int | None = None
    half: int | None = None

    def view(self, parameter: Tensor | Quantised) -> Tensor | Quantised:
        """The part of `parameter` that this place names."""
        view = parameter if self.expert is None else parameter[self.expert]
        if self.half is None:
            return view
        return view.half(self.half) if isinstance(view, Quantised) else view.chunk(2, dim=0)[self.half]


def whole(tensor: LazyTensor, _: Shard) -> Tensor:
    """Every rank keeps all of it."""
    return tensor[:]


def rows(tensor: LazyTensor, shard: Shard) -> Tensor:
    """This rank's share of the output rows."""
    share = shard.tp.split(tensor.shape[0], f"{tensor.name} rows")
    return tensor[share.start : share.stop]


def columns(tensor: LazyTensor, shard: Shard) -> Tensor:
    """This rank's share of the input columns."""
    share = shard.tp.split(tensor.shape[1], f"{tensor.name} columns")
    return tensor[:, share.start : share.stop]


def qkv_heads(tensor: LazyTensor, shard: Shard) -> Tensor:
    """This rank's query heads and the key/value heads they read, out of packed q | k | v rows."""
    llm = shard.llm
    assert llm is not None, "only the thinker has packed heads"
    c = llm.head_dim
    q = shard.tp.split(llm.num_attention_heads, "num_attention_heads")
    kv = shard.tp.split_kv_heads(llm.num_key_value_heads)
    first_k = llm.num_attention_heads
    first_v = first_k + llm.num_key_value_heads
    parts = [(q.start, q.stop), (first_k + kv.start, first_k + kv.stop), (first_v + kv.start, first_v + kv.stop)]
    return torch.cat([tensor[start * c : stop * c] for start, stop in parts])


@dataclass(frozen=True)
class Into:
    """Names the parameter that a checkpoint tensor goes to; `template` is filled with the fields of its name."""

    template: str
    half: int | None = None

    def place(self, found: Mapping[str, str]) -> Place:
        """Where a tensor with these fields in its name goes."""
        expert = int(found["expert"]) if "expert" in found else None
        return Place(self.template.replace("*}", "}").format(**found), expert, self.half)

    def fields(self, place: Place) -> dict[str, str] | None:
        """The fields that lead to `place`, or None if none do."""
        found = _name_pattern(self.template).fullmatch(place.parameter)
        if found is None or place.half != self.half:
            return None
        return found.groupdict() | ({} if place.expert is None else {"expert": str(place.expert)})


def to(template: str, half: int | None = None) -> Into:
    """Place into the parameter `template`, or into half `half` of its rows."""
    return Into(template, half)


@dataclass(frozen=True)
class Rule:
    """`{field}` matches one name component, `{field*}` the rest of the name.

    Without `into` the parameter has the checkpoint's own name. `optional` tensors may be absent.
    """

    pattern: str
    keep: Keep = whole
    into: Into | None = None
    optional: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return _name_pattern(self.pattern)

    def match(self, name: str) -> Place | None:
        """The place of checkpoint tensor `name`, or None if the rule is not about it."""
        found = self.regex.fullmatch(name)
        if found is None:
            return None
        return self.into.place(found.groupdict()) if self.into else Place(name)

    def source(self, place: Place) -> str | None:
        """The checkpoint tensor that would fill `place`, or None if this rule fills others."""
        if self.into is None:
            return place.parameter if self.regex.fullmatch(place.parameter) else None
        found = self.into.fields(place)
        return None if found is None else self.pattern.replace("*}", "}").format(**found)


@cache
def _name_pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join(_component(part) for part in re.split(r"(\{\w+\*?\})", template)))


def _component(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    name = part.strip("{}*")
    return f"(?P<{name}>.+)" if part.endswith("*}") else f"(?P<{name}>[^.]+)"


@dataclass(frozen=True)
class Rules:
    """A component's table. `prefixes` start every name it owns; what it does not match there is an error.

    `wrappers` are name parts that some packagings put in front of all the others: of each group at most one, in order.
    """

    name: str
    prefixes: tuple[str, ...]
    rows: tuple[Rule, ...]
    skip: Mapping[str, str] = field(default_factory=dict)  # prefix -> why it is not loaded
    wrappers: tuple[tuple[str, ...], ...] = ()

    def owns(self, name: str) -> bool:
        """True when `name` belongs to this component."""
        return self.unwrap(name).startswith(self.prefixes)

    def unwrap(self, name: str) -> str:
        """`name` as the component itself spells it."""
        for group in self.wrappers:
            name = name.removeprefix(next((part for part in group if name.startswith(part)), ""))
        return name

    def find(self, name: str) -> tuple[Rule, Place] | None:
        """The first rule that matches, with the place it gives."""
        for rule in self.rows:
            place = rule.match(self.unwrap(name))
            if place is not None:
                return rule, place
        return None

    def skipped(self, name: str) -> str | None:
        """Why `name` is left out on purpose, or None."""
        inner = self.unwrap(name)
        if not inner.startswith(tuple(self.skip)):
            return None
        return next((why for prefix, why in self.skip.items() if inner.startswith(prefix)), None)


_LAYER = "model.model.layers.{layer}."
_MINE = "model.layers.{layer}."


def _gated_mlp(theirs: str, mine: str) -> tuple[Rule, ...]:
    """gate and up become the halves of one packed weight."""
    return (
        Rule(_LAYER + theirs + "gate_proj.weight", rows, to(_MINE + mine + "gate_up_weight", half=0)),
        Rule(_LAYER + theirs + "up_proj.weight", rows, to(_MINE + mine + "gate_up_weight", half=1)),
        Rule(_LAYER + theirs + "down_proj.weight", columns, to(_MINE + mine + "down_weight")),
    )


# The speech part, which merged packagings keep beside the thinker. Its audio VAE has one of the wrappers in front, of
# which `audio.` is also the prefix of the thinker's Whisper tower: what follows tells the two apart.
TALKER_WRAPPER = "talker."
TALKER_PREFIXES = ("model.", "cfm.", "aggregator.", "stop_head.", "spk_head.")
VAE_WRAPPERS = ("audio_vae.", "talker_vae.", "vae.", "audio.")
VAE_PREFIXES = (
    *(f"encoder.{part}" for part in ("encoder.", "aggregator.", "fc1.", "fc2.", "fc3.", "norm.", "cls_embed")),
    *(f"decoder.{part}" for part in ("decoder.", "fc1.", "head.")),
)
_SPEECH = (
    *(TALKER_WRAPPER + prefix for prefix in TALKER_PREFIXES),
    *(
        outer + wrapper + prefix
        for outer in ("", TALKER_WRAPPER)
        for wrapper in VAE_WRAPPERS
        for prefix in VAE_PREFIXES
    ),
)

THINKER = Rules(
    name="thinker",
    prefixes=("model.",),
    skip=dict.fromkeys(_SPEECH, "part of the talker and its audio VAE"),
    rows=(
        Rule("model.model.word_embeddings.weight", rows, to("model.word_embeddings.weight")),
        Rule("model.lm_head.weight", rows, to("model.lm_head.weight")),
        Rule("model.model.norm.weight", whole, to("model.norm.weight")),
        Rule(_LAYER + "{norm}_layernorm.weight", whole, to(_MINE + "{norm}_layernorm.weight")),
        Rule(_LAYER + "attention.query_key_value.weight", qkv_heads, to(_MINE + "attention.query_key_value.weight")),
        Rule(_LAYER + "attention.dense.weight", columns, to(_MINE + "attention.dense.weight")),
        Rule(_LAYER + "attention.q_norm.weight", whole, to(_MINE + "attention.q_norm.weight")),
        Rule(_LAYER + "attention.k_norm.weight", whole, to(_MINE + "attention.k_norm.weight")),
        # Stand-alone Ling-2.0 checkpoints spell the same two tensors this way.
        Rule(_LAYER + "attention.query_layernorm.weight", whole, to(_MINE + "attention.q_norm.weight")),
        Rule(_LAYER + "attention.key_layernorm.weight", whole, to(_MINE + "attention.k_norm.weight")),
        *(Rule(f"{_LAYER}mlp.{g}.{{leaf}}", whole, to(f"{_MINE}mlp.router.{g}.{{leaf}}"))
          for g in ("gate", "image_gate", "audio_gate")),
        Rule(_LAYER + "mlp.experts.{expert}.gate_proj.weight", rows, to(_MINE + "mlp.experts.w13", half=0)),
        Rule(_LAYER + "mlp.experts.{expert}.up_proj.weight", rows, to(_MINE + "mlp.experts.w13", half=1)),
        Rule(_LAYER + "mlp.experts.{expert}.down_proj.weight", columns, to(_MINE + "mlp.experts.w2")),
        *_gated_mlp("mlp.shared_experts.", "mlp.shared_experts."),
        *_gated_mlp("mlp.", "mlp.mlp."),
    ),
)  # fmt: skip

VISION = Rules(
    name="vision tower",
    prefixes=("vision.", "linear_proj."),
    rows=(
        Rule("vision.{rest*}", whole, to("vision_encoder.vision.{rest*}")),
        Rule("linear_proj.{rest*}", whole, to("vision_encoder.linear_proj.{rest*}")),
    ),
)

AUDIO = Rules(
    name="audio tower",
    prefixes=("audio.", "linear_proj_audio."),
    rows=(
        # The position table is analytic; a file may leave it out.
        Rule("audio.positional_embedding", whole, to("audio_encoder.audio.positional_embedding"), optional=True),
        Rule("audio.{rest*}", whole, to("audio_encoder.audio.{rest*}")),
        Rule("linear_proj_audio.{rest*}", whole, to("audio_encoder.linear_proj_audio.{rest*}")),
    ),
)

COMPONENTS = (THINKER, VISION, AUDIO)
