"""The command line of `serve`; imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from engine.config import SPEECH_SLACK

KEY_VARIABLE = "MING_API_KEY"
# Arguments of chat template renderers: a client that could set one would change what is rendered, or with what.
_RENDERER_ARGUMENTS = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "bos_token", "eos_token", "pad_token"),
        *("raise_exception", "strftime_now", "self", "cls", "enable_thinking"),
    }
)
_EXAMPLES = """\
examples:
  python -m engine                                      the embedded tiny model on http://127.0.0.1:8000
  python -m engine --port 0 --port-file /run/ming.port  any free port, written to a file
  python -m engine --model inclusionAI/Ming-flash-omni-2.0 --tp 4
  python -m engine --model ./checkpoint --quant fp8     one GPU of 139 GiB; int4: one of 78
  python -m engine --model ./checkpoint --max-model-len 16384 --kv-tokens 200000
  python -m engine --load-format generated --tp 2       the released geometry with drawn weights, for speed
  python -m engine --host 0.0.0.0 --api-key-file keys.txt
  torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr host-a --master-port 29500 -m engine
                                                        over several hosts, see docs/several-hosts.md
  python -m engine inspect ./checkpoint                 what it holds and needs
  python -m engine verify ./checkpoint                  whether it loads, without reading weights
  python -m engine openapi                              the endpoint's OpenAPI description

exit codes: 0 stopped by a signal and drained, 1 the engine failed, 2 options or machine do not allow it
"""


def make_parser() -> argparse.ArgumentParser:
    """The options of `serve`, in groups."""
    parser = argparse.ArgumentParser(
        prog="python -m engine",
        usage="python -m engine [serve] [options] | inspect PATH | verify PATH | openapi",
        description="Serve Ming-flash-omni-2.0 with an OpenAI-compatible HTTP endpoint.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --api-key would be taken for --api-key-file, and a key repeated in the error
    )
    _add_model_options(parser.add_argument_group("model"))
    _add_engine_options(parser.add_argument_group("engine"))
    _add_speech_options(parser.add_argument_group("speech"))
    _add_http_options(parser.add_argument_group("endpoint"))
    _add_limit_options(parser.add_argument_group("limits"))
    _add_access_options(parser.add_argument_group("access"))
    return parser


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="PATH|ID", help="checkpoint directory or hub id (default: the embedded tiny model)")
    add(
        "--load-format",
        choices=("checkpoint", "generated"),
        default="checkpoint",
        help="generated draws weights on the device, to measure speed: of the geometry in --model, by default the "
        "released one",
    )
    add("--revision", help="commit, tag or branch, when --model is a hub id")
    add("--tokenizer", type=Path, metavar="PATH", help="directory that has tokenizer.json (default: the model's)")
    add("--skip-tokenizer", action="store_true", help="serve /v1/completions with token ids only")
    add(
        "--served-model-name",
        action="append",
        metavar="NAME",
        help="name that clients use; repeat it for aliases (default: ming-flash-omni-2.0, or -tiny)",
    )
    add(
        "--system-default",
        choices=("none", "ming"),
        default="none",
        help="system sentence of chats that bring none: none at all (default), or the released one",
    )
    add(
        "--template-kwarg",
        type=_template_kwarg,
        action="append",
        default=[],
        metavar="NAME",
        help="name that clients may send in chat_template_kwargs beside enable_thinking; repeatable. The released "
        "template has no other switch, so it is accepted and has no effect",
    )
    add(
        "--cache-dir", type=Path, metavar="PATH", help="where the embedded model is written (default: the user's cache)"
    )


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tp", type=_positive, default=1, metavar="N", help="tensor-parallel ranks, one GPU each (default: 1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto (default) is a GPU where there is one")
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of weights and cache; auto (default) keeps what the checkpoint stores",
    )
    add(
        "--quant",
        choices=("none", "fp8", "int4"),
        default="none",
        help="pack the large weights while loading: fp8 in 8 bits, int4 the experts in 4 and the rest in 8 "
        "(default: none)",
    )
    add("--max-model-len", type=_positive, metavar="N", help="context in tokens (default: the checkpoint's)")
    add("--block-size", type=_positive, default=16, metavar="N", help="tokens of one cache block (default: 16)")
    add("--kv-tokens", type=_positive, metavar="N", help="tokens that the cache holds (default: what memory allows)")
    add(
        "--memory-fraction",
        type=_fraction,
        default=0.9,
        metavar="F",
        help="share of device memory to use, weights included (default: 0.9)",
    )
    step_help = "most tokens in one step (default: 2048; on a GPU 8192 while no stream decodes)"
    add("--step-tokens", type=_positive, metavar="N", help=step_help)
    add("--max-num-seqs", type=_positive, default=256, metavar="N", help="most sequences in one step (default: 256)")
    add(
        "--audio-batching",
        choices=("alone", "padded"),
        default="alone",
        help="clips of a request on their own (default), or zero-padded together as released",
    )
    add(
        "--tower-graphs",
        action="store_true",
        help="on a GPU, capture vision and audio towers for the 16 shapes that came again last, not with --eager",
    )
    add("--eager", action="store_true", help="on a GPU, launch decode steps kernel by kernel, without CUDA graphs")
    add("--no-peer-sums", action="store_true", help="sum over GPUs through NCCL alone, small steps too")
    add("--threads", type=_positive, metavar="N", help="CPU threads of the engine (default: half the cores)")


def _talker_device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda and cuda:N")
    return text


def _add_speech_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--speech",
        choices=("auto", "off", "only"),
        default="auto",
        help="auto (default) answers in speech, too, where the checkpoint has a talker; off leaves it unloaded; "
        "only serves the talker and nothing else",
    )
    add(
        "--talker-device",
        type=_talker_device,
        metavar="DEVICE",
        help="where the talker runs: auto, cpu, cuda or cuda:N (default: as --device)",
    )
    add(
        "--speech-segments",
        choices=("sentence", "released"),
        default="sentence",
        help="where a text is cut to be spoken: at sentences (default), or as early as the released program does",
    )
    add(
        "--speech-slack",
        type=_slack,
        default=SPEECH_SLACK,
        metavar="FACTOR",
        help="a segment ends after so many times the length that its text should take (default: %(default)s)",
    )
    add("--voices", metavar="DIR", help="preset voices of your own: NAME.wav with NAME.txt, what is said in it")
    add("--speaker-encoder", metavar="FILE", help="CAM++ as ONNX (default: talker/campplus.onnx, where it is)")
    add(
        "--vae-encoder-layers",
        choices=("released", "all"),
        default="released",
        help="layers of the audio VAE's encoder that run on reference clips: 4 as released (default), or all stored",
    )
    add("--talker-slots", type=_positive, default=8, metavar="N", help="most utterances spoken at once (default: 8)")


def _add_http_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=8000, help="port to listen on, 0 for any free one (default: 8000)")
    add("--port-file", type=Path, metavar="PATH", help="file that gets the port number once it is open")
    add(
        "--drain-timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="seconds that running requests have after SIGTERM (default: 30)",
    )
    add(
        "--sse-ping",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="seconds after which a quiet stream gets a comment line, 0 for never (default: 0)",
    )
    add("--parent-fd", type=_count, metavar="FD", help="end when this inherited pipe is closed at its other end")
    add("--metrics-vllm-names", action="store_true", help="show metrics under vllm: names, too")


def _add_limit_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-queue", type=_count, default=256, metavar="N", help="most sequences that wait (default: 256)")
    add(
        "--max-queue-tokens",
        type=_positive,
        metavar="N",
        help="most prompt tokens that wait (default: eight times the context)",
    )
    add(
        "--max-body",
        type=_positive,
        default=64 << 20,
        metavar="BYTES",
        help="largest request body, uncompressed (default: 67108864)",
    )
    add("--body-timeout", type=_seconds, default=60.0, metavar="S", help="seconds for a body to arrive (default: 60)")
    add("--request-timeout", type=_seconds, default=600.0, metavar="S", help="seconds for an answer (default: 600)")
    add(
        "--limit-mm",
        type=_media_limit,
        action="append",
        default=[],
        metavar="KIND=N",
        help="parts of a kind in one request; repeatable (default: image=16 audio=4 video=2)",
    )
    add(
        "--max-request-memory",
        type=_positive,
        default=2 << 30,
        metavar="BYTES",
        help="bodies and decoded media of all requests that have not reached the engine (default: 2147483648)",
    )
    add("--max-connections", type=_positive, default=1024, metavar="N", help="most open connections (default: 1024)")


def _add_access_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--api-key-file",
        type=Path,
        metavar="PATH",
        help=f"file of accepted keys, one a line; those in the variable {KEY_VARIABLE} are accepted, too",
    )
    add("--allow-no-key", action="store_true", help="listen on other addresses than this machine's own without a key")
    add(
        "--media-domain",
        action="append",
        default=[],
        metavar="HOST",
        help="exact host from which http(s) media may be fetched; repeatable (default: none)",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="exact origin of a page that may call this server, as https://ui.example; repeatable (default: none)",
    )
    add(
        "--log-requests",
        action="store_true",
        help="log the beginning of each request body, prompts included, and what came of it",
    )
    add("--metrics-auth", action="store_true", help="ask for a key on /metrics, too")


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _count(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, got {text!r}")
    return int(text)


def _media_limit(text: str) -> tuple[str, int]:
    kind, _, count = text.partition("=")
    if kind not in ("image", "audio", "video"):
        raise argparse.ArgumentTypeError(f"must be image=N, audio=N or video=N, got {text!r}")
    return kind, _at_least(count, 0)


def _template_kwarg(text: str) -> str:
    if not text.isidentifier() or text in _RENDERER_ARGUMENTS:
        raise argparse.ArgumentTypeError(f"must be a name that is no argument of the renderer itself, got {text!r}")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    return _number(text, "seconds of at least 0", 0.0, float("inf"))


def _fraction(text: str) -> float:
    return _number(text, "between 0 and 1", 0.0, 1.0)


def _slack(text: str) -> float:
    return _number(text, f"between {SPEECH_SLACK} and 10", SPEECH_SLACK, 10.0)


def _number(text: str, what: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}")
    return value
