"""Tables of the speech part: the talker, and the audio VAE under any of the prefixes that packagings give it."""

from __future__ import annotations

from collections.abc import Iterable

from engine.weights.rules import TALKER_PREFIXES, TALKER_WRAPPER, VAE_PREFIXES, VAE_WRAPPERS, Rule, Rules, to, whole

_COMPUTED = "computed, in float32"
_UNUSED = "the released forward pass never reads it"

EMBEDDING = "model.embed_tokens.weight"

TALKER = Rules(
    name="talker",
    wrappers=((TALKER_WRAPPER,),),
    prefixes=TALKER_PREFIXES,
    rows=(
        Rule(EMBEDDING, whole, to("embed_tokens.weight")),
        Rule("{name*}"),
    ),
    skip={"cfm.model.rotary_embed.": _COMPUTED, "aggregator.rotary_embed.": _COMPUTED},
)

_BACKBONES = ("encoder.encoder", "encoder.aggregator", "decoder.decoder")


def vae_rules(unused_layers: Iterable[int] = ()) -> Rules:
    """The audio VAE's table, without the encoder layers that do not run."""
    unused = ("encoder.norm.", *(f"{part}.embed_tokens." for part in _BACKBONES))
    layers = (f"encoder.encoder.layers.{i}." for i in unused_layers)
    return Rules(
        name="audio VAE",
        wrappers=((TALKER_WRAPPER,), VAE_WRAPPERS),
        prefixes=VAE_PREFIXES,
        rows=(Rule("{name*}"),),
        skip={"decoder.head.istft.": _COMPUTED}
        | dict.fromkeys(unused, _UNUSED)
        | dict.fromkeys(layers, "beyond the encoder depth that runs"),
    )


VAE = vae_rules()
