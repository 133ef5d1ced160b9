"""Cases of the speech models, each alone on the weights of its folder, on the CPU in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import WeightError
from engine.goldens.compare import CaseResult, Tolerance, load_case, load_json
from engine.layers.embedding import empty_embedding
from engine.models.aggregator import Aggregator
from engine.models.cfm import FlowMatching, sway, time_grid
from engine.models.dit import TIME_SCALE, DiT
from engine.models.observe import record
from engine.models.qwen2 import Qwen2Model
from engine.models.qwen2_memory import SlotCache
from engine.models.vae_decoder import DecoderState, LatentChunk, VAEDecoder
from engine.models.vae_encoder import EncoderDepth, Posterior, VAEEncoder, num_encoder_layers
from engine.parallel import TensorParallel
from engine.talker_config import SPEAKER_WIDTH, parse_dit, parse_qwen2, parse_vae
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import fill, make_plan, stored_shapes
from engine.weights.rules import Rules, Shard
from engine.weights.speech_rules import TALKER, vae_rules

BLOCKS = Tolerance(0.0, 2e-5)
SAMPLING = Tolerance(0.0, 5e-5)
GRID = Tolerance(0.0, 1e-6)
LLM = Tolerance(0.0, 5e-5)
HIDDEN = Tolerance(0.0, 5e-5)
WAVEFORM = Tolerance(0.0, 1e-4)
ENCODER = Tolerance(0.0, 5e-5)

Tensors = dict[str, Tensor]


def load_part(parts: dict[str, nn.Module], folder: Path, rules: Rules) -> None:
    """Fill some components, given under their names in the whole model; the case may store others as well.

    Raises:
        WeightError: something of them is missing, or has another shape.
    """
    model, checkpoint = nn.ModuleDict(parts), Checkpoint(folder)
    plan = make_plan(checkpoint.files, stored_shapes(model), [rules])
    if plan.missing:
        raise WeightError(f"{folder}: {'; '.join(plan.problems)}")
    fill(model, checkpoint, Shard(TensorParallel()), plan)


def load_flow(folder: Path, cond_dim: int) -> FlowMatching:
    """The case's flow model and solver, for conditions of width `cond_dim`."""
    tree = load_json(folder / "config.json")
    cfg = parse_dit(tree["flowmodel"], "flowmodel")
    model = DiT(cfg, cond_dim, tree["history_patch_size"], tree["patch_size"])
    matching = FlowMatching(model, tree["steps"])
    load_part({"cfm": matching}, folder, TALKER)
    return matching


@torch.inference_mode()
def run_dit(folder: Path) -> CaseResult:
    """`dit_blocks`: every stage of the flow model, and the batch that guidance makes."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    flow = load_flow(folder, inputs["llm_cond"].shape[-1])
    model = flow.model
    x, cond, history = inputs["x"], inputs["llm_cond"], inputs["latent_history"]
    names = {"t_embedder": "time_emb", "c_embedder": "cond_emb", "blocks.0.attn": "attn0_out"}
    names |= {f"blocks.{i}": f"block_{i}" for i in range(len(model.blocks))}
    with record(model, names) as seen:
        last_patch = model(x, inputs["t"], cond, history)
    got = dict(seen) | {
        "out_last_patch": last_patch,
        "out_full_sequence": model.final_layer(seen[f"block_{len(model.blocks) - 1}"]),
        "rope_freqs": model.table.angles.repeat_interleave(2, dim=-1)[None],
        "time_sinusoid": model.t_embedder.features(TIME_SCALE * inputs["t"]),
    }
    if "t_bf16_as_fp32" in inputs:  # what the bfloat16 run time sees: the product is rounded before the sines are taken
        got["time_sinusoid_bf16_t"] = model.t_embedder.features(TIME_SCALE * inputs["t_bf16_as_fp32"].bfloat16())
    time = model.t_embedder(inputs["cfg_t"].reshape(1))
    got["cfg_stacked_out"] = model.velocity(x.repeat(2, 1, 1), time[None], flow.doubled_context(cond, history))
    result.tensors(got, expected, BLOCKS)
    return result


@torch.inference_mode()
def run_cfm(folder: Path) -> CaseResult:
    """`cfm_sampling`: time grids, guided velocities, and patches by the plain and the stochastic solver."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    flow = load_flow(folder, inputs["llm_cond"].shape[-1])
    got: Tensors = {}
    for name in expected:
        kind, _, steps = name.partition("_")[2].partition("_")
        if name.startswith("grid_") and steps.isdigit():
            grid = time_grid(int(steps))
            got[name] = grid if kind == "raw" else sway(grid)
        elif name.startswith("grid_"):
            got[name] = sway(time_grid(int(steps.removesuffix("_bf16"))).bfloat16()).float()
        elif name.startswith("out_"):
            got |= _sample(flow, inputs, name.removeprefix("out_"))
    grids = {name: tensor for name, tensor in expected.items() if name.startswith("grid_")}
    result.tensors(got, grids, GRID)
    result.tensors(got, {name: expected[name] for name in expected.keys() - grids.keys()}, SAMPLING)
    return result


def _sample(flow: FlowMatching, inputs: Tensors, setting: str) -> Tensors:
    cfg, sigma, temperature = inputs[f"sde_args_{setting}"]
    cond, history, y0 = inputs["llm_cond"], inputs["lat_cond"], inputs["y0"]
    strength, spread = cfg.expand(len(y0)), (sigma * temperature.sqrt()).expand(len(y0))
    out = flow(cond, history, y0, strength, inputs["sde_rnd"], spread)
    first = flow.model.t_embedder(flow.grid[:1])[0]
    velocity = flow.guided_velocity(y0, first, flow.doubled_context(cond, history), strength)
    return {f"out_{setting}": out, f"velocity0_{setting}": velocity}


@torch.inference_mode()
def run_aggregator(folder: Path) -> CaseResult:
    """`aggregator`: patches to input embeddings."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    tree = load_json(folder / "config.json")
    cfg = parse_dit(tree["aggregator"], "aggregator")
    model = Aggregator(cfg, tree["llm_hidden_size"], tree["patch_size"])
    load_part({"aggregator": model}, folder, TALKER)
    with record(model, {f"blocks.{i}": f"block_{i}" for i in range(cfg.depth)}) as seen:
        seen["out"] = model(inputs["latents"])
    result.tensors(seen, expected, BLOCKS)
    return result


@torch.inference_mode()
def run_llm_step(folder: Path) -> CaseResult:
    """`talker_llm_step`: a prompt with speaker rows, decode steps from the cache, and the stop head."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    cfg = parse_qwen2(load_json(folder / "config.json"), "config.json")
    embed, model = empty_embedding(cfg.vocab_size, cfg.hidden_size), Qwen2Model(cfg)
    stop_head, spk_head = nn.Linear(cfg.hidden_size, 2), nn.Linear(SPEAKER_WIDTH, cfg.hidden_size)
    load_part({"embed_tokens": embed, "model": model, "stop_head": stop_head, "spk_head": spk_head}, folder, TALKER)
    projected = spk_head(inputs["speaker_embeddings"])
    embeddings = embed(inputs["input_ids"])
    embeddings[0, inputs["speaker_positions"]] = projected
    length = embeddings.shape[1]
    steps = sum(name.startswith("next_embed_") for name in inputs)
    cache = SlotCache(cfg, 1, length + steps, torch.float32, torch.device("cpu"))
    prompt = model(embeddings, cache.prefill(0, length))
    decoded = [model(inputs[f"next_embed_{k + 1}"], cache.decode(torch.tensor([length + k]))) for k in range(steps)]
    hidden = torch.cat([prompt[:, -1:], *decoded], dim=1)
    logits = stop_head(hidden)
    got = {"spk_projected": projected, "prefill_embeds": embeddings, "prefill_hidden": prompt, "hidden_steps": hidden}
    result.tensors(got | {"stop_logits": logits, "stop_probs": logits.softmax(dim=-1)}, expected, LLM)
    return result


@torch.inference_mode()
def run_vae_decode(folder: Path) -> CaseResult:
    """`vae_decode`: whole sequences, and the same as streams of chunks with exact sample counts."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    decoder = VAEDecoder(parse_vae(load_json(folder / "config.json")))
    load_part({"decoder": decoder}, folder, vae_rules())
    names = {"decoder": "backbone_hidden", "head.out": "head_out"}
    with record(decoder, names, inputs={"decoder": "backbone_in"}) as seen:
        whole = decoder(inputs["latents"])
    got: Tensors = {"waveform_offline": whole[:, None]}
    for name in (key.removeprefix("latents_") for key in inputs if key.startswith("latents_")):
        got[f"waveform_offline_{name}"] = decoder(inputs[f"latents_{name}"])[:, None]
    for name in (key.removeprefix("splits_") for key in inputs if key.startswith("splits_")):
        parts = stream_decode(decoder, inputs["latents"][0], inputs[f"splits_{name}"].tolist())
        got[f"stream_{name}"] = torch.cat(parts)[None]
        got[f"stream_{name}_chunk_samples"] = torch.tensor([len(part) for part in parts])
        result.tensors(
            {f"stream_{name} = offline": got[f"stream_{name}"]}, {f"stream_{name} = offline": whole}, WAVEFORM
        )
    result.tensors(seen, {name: expected.pop(name) for name in seen if name in expected}, HIDDEN)
    result.tensors(got, expected, WAVEFORM)
    return result


def stream_decode(decoder: VAEDecoder, latents: Tensor, sizes: list[int]) -> list[Tensor]:
    """Latents [T, M] in chunks of `sizes` -> what each call gives."""
    state: DecoderState = decoder.start()
    parts = []
    for k, chunk in enumerate(torch.split(latents, sizes)):
        samples, state = decoder.stream([LatentChunk(chunk, state, k == len(sizes) - 1)])[0]
        parts.append(samples)
    return parts


@torch.inference_mode()
def run_vae_encode(folder: Path) -> CaseResult:
    """`vae_encode`: both encoder depths."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    tree = load_json(folder / "config.json")
    depths: dict[EncoderDepth, str] = {"released": "", "all": "all_layers_"}
    got: Tensors = {}
    for depth, infix in depths.items():
        encoder, num_layers = _encoder(folder, tree, depth)
        for name in (key.removeprefix("wav_") for key in inputs if key.startswith("wav_")):
            frames = encoder.frames(inputs[f"wav_{name}"])
            params = encoder.posterior_params(frames)
            got[f"params_{infix}{name}"] = params
            if depth == "released":
                posterior = Posterior.of(params)
                got |= {f"frames_{name}": frames, f"mean_{name}": posterior.mean, f"std_{name}": posterior.std}
                got[f"latent_{name}"] = posterior.sample(inputs[f"eps_{name}"])
                got[f"frame_num_{name}"] = torch.tensor([float(params.shape[1])])
                got["encoder_layers_executed"] = torch.tensor(num_layers)
    result.tensors(got, expected, ENCODER)
    return result


def _encoder(folder: Path, tree: dict[str, Any], depth: EncoderDepth) -> tuple[VAEEncoder, int]:
    cfg = parse_vae(tree)
    encoder = VAEEncoder(cfg, depth)
    num_layers = num_encoder_layers(cfg, depth)
    load_part({"encoder": encoder}, folder, vae_rules(range(num_layers, cfg.encoder.num_hidden_layers)))
    return encoder, num_layers
