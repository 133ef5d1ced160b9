"""Options of `sweep` that say when requests are sent, when a point has seen enough, and what counts as good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SHAPES = "closed, waves, constant, poisson, gamma, ramp or trace"

RateOption = Annotated[
    str | None,
    typer.Option(
        metavar="RATES",
        help="Requests per second of an open loop: 5, 1,2.5,4 or 1..16 (doubling); of a ramp, first and last.",
    ),
]
ArrivalsOption = Annotated[
    str | None,
    typer.Option(metavar="SHAPE", help=f"{_SHAPES}. [default: poisson with --rate, trace with --trace, else closed]"),
]
BurstinessOption = Annotated[
    float | None,
    typer.Option(min=0.01, help="Shape of gamma arrivals: 1 is Poisson, less is burstier. [default: 1]"),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Replay a trace: JSON lines with timestamp_s or timestamp (ms), and text, output_tokens where known.",
    ),
]
MaxInFlightOption = Annotated[
    int | None, typer.Option(min=1, max=65_536, help="Most requests in flight of an open loop. [default: 256]")
]
DurationOption = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="SECONDS", help="Send nothing more after so long, at each point."),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        metavar="ci=PERCENT%",
        help="ci=2%: end a point when mean E2E is known to 2 %, at the latest at --requests or --duration.",
    ),
]
StopErrorRateOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="End a point when more than this share of 20 or more failed.",
    ),
]
SloOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=LIMIT", help="Count requests within ttft=500ms, tpot=50ms, e2e=2s, rtf=0.5 ...; repeatable."
    ),
]
OrderOption = Annotated[
    str,
    typer.Option(metavar="ORDER", help="Of the points: given (rising), random or interleaved (low, high, low, ...)."),
]
RestOption = Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="Leave the servers alone between points.")]
OutageLimitOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        metavar="SECONDS",
        help="Hold requests back for so long while a server takes no connections; 0 sends on regardless.",
    ),
]
MaxTimeOption = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="SECONDS", help="End the whole run after so long, as if interrupted."),
]
NonceOption = Annotated[
    bool,
    typer.Option(
        "--nonce/--no-nonce",
        help="A number of its own in front of each prompt, so that no prefix cache helps.",
    ),
]
ResumeOption = Annotated[
    str | None, typer.Option(metavar="RUN", help="Finish a run that was cut short; takes its own options from the run.")
]
InputTokensOption = Annotated[
    str | None,
    typer.Option(
        metavar="LENGTH",
        help="Synthetic prompts: 512, 128..1024 (uniform) or 512~64 (normal) tokens, without the chat template.",
    ),
]
ApiOption = Annotated[
    str,
    typer.Option(
        metavar="chat|completions",
        help="completions: raw prompts through /v1/completions, without a chat template; with --input-tokens they are "
        "token ids, as many as asked and nothing else.",
    ),
]
VocabularyOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Draw token ids from 0 to N-1. [default: those of --tokenizer, or that the server says are text]",
    ),
]
OutputTokensOption = Annotated[
    str | None,
    typer.Option(
        metavar="LENGTH", help="Output tokens drawn for each request, as --input-tokens; wins over --max-tokens."
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A tokenizer.json that counts where the server has no /tokenize, or whose ids --api completions draws.",
    ),
]
ExtraBodyOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help="""Fields for the body of every request: '{"top_k": 1}'; they win over the usual ones."""
    ),
]
WorkersOption = Annotated[
    str,
    typer.Option(
        metavar="N|ray",
        help="Processes that share the work, where one core is too little: 4; on the hosts of a Ray cluster: "
        "ray://HOST:10001, 8@ray://HOST:10001, or ray for the one that this host is in.",
    ),
]
SearchOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIMITS",
        help="Find the highest load that meets limits such as 'ttft_ms.p99<500 and tpot_ms.p95<50', 'rtf.p95<0.8' or "
        "'goodput>0.95' (of --slo), "
        "between the ends of --concurrency.",
    ),
]
GpusOption = Annotated[int | None, typer.Option(min=1, help="GPUs that the server runs on: adds figures per GPU.")]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="PRICE", help="Price of the whole server per hour: adds prices."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be sent, with the first request, and send nothing.")
]
NoteOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Kept with the run, such as the command that started the server; no secrets."),
]
