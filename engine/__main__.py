"""`python -m engine`: options to a running server, or to `inspect` and `verify` of a checkpoint."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import STEP_TOKENS, EngineConfig, HostRank, SpeechOptions
from engine.errors import ConfigError
from engine.server.options import KEY_VARIABLE, make_parser
from engine.torchrun import choose_tp, end_with_agent, read_place

if TYPE_CHECKING:  # imported late where they are used, so that --help is quick
    from engine.inputs.tokenizer import Tokenizer
    from engine.server.auth import KeyRing
    from engine.server.serve import Launch, Prepared
    from engine.server.service import ServerOptions

log = logging.getLogger("engine")

_MODEL_NAME = "ming-flash-omni-2.0"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 drained, 1 the engine failed, 2 options or machine do not allow it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("inspect", "verify"):
        from engine import inspect

        return inspect.main(arguments)
    if arguments == ["openapi"]:
        from engine.server import openapi

        return openapi.main()
    if arguments and arguments[0] == "serve":
        arguments = arguments[1:]
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s server %(levelname)s %(name)s: %(message)s")
    try:
        return run(options, os.environ)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until a signal or a failure.

    Raises:
        ConfigError: options or machine do not allow it.
    """
    place = read_place(environ)
    if place is not None:
        end_with_agent()
        if place.rank > 0:
            return _follow(options, place)
    import uvloop

    from engine.server.http import bind
    from engine.server.serve import serve

    launch = make_launch(options, environ)
    _check_directory(options)
    sock = bind(options.host, options.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(launch, sock))


def make_launch(options: argparse.Namespace, environ: Mapping[str, str]) -> Launch:
    """Options to what is served.

    Raises:
        ConfigError: they do not go together.
    """
    from engine.server.serve import Launch

    return Launch(
        options=make_server_options(options, environ),
        prepare=partial(prepare, options, read_place(environ)),
        port_file=options.port_file,
        drain_timeout_s=options.drain_timeout,
        parent_fd=options.parent_fd,
    )


def make_server_options(options: argparse.Namespace, environ: Mapping[str, str]) -> ServerOptions:
    """Options of the HTTP side.

    Raises:
        ConfigError: it would be open to the network without a key.
    """
    from engine.inputs.chat import MING_SYSTEM
    from engine.server.auth import is_loopback
    from engine.server.cors import check_origin
    from engine.server.media import DEFAULT_LIMITS
    from engine.server.service import ServerOptions

    keys = read_key_ring(options, environ)
    loopback_only = is_loopback(options.host)
    if not loopback_only and not keys:
        _require_consent(options)
    default_name = _default_name(options)
    return ServerOptions(
        model_names=tuple(options.served_model_name or (default_name,)),
        num_running=min(options.max_num_seqs, options.step_tokens or STEP_TOKENS),
        max_queue=options.max_queue,
        max_queue_tokens=options.max_queue_tokens,
        max_body_bytes=options.max_body,
        body_timeout_s=options.body_timeout,
        request_timeout_s=options.request_timeout,
        max_connections=options.max_connections,
        max_request_memory_bytes=options.max_request_memory,
        keys=keys,
        loopback_only=loopback_only,
        metrics_auth=options.metrics_auth,
        metrics_vllm_names=options.metrics_vllm_names,
        sse_ping_s=options.sse_ping,
        template_kwargs=tuple(options.template_kwarg),
        system_default=MING_SYSTEM if options.system_default == "ming" else None,
        cors_origins=tuple(map(check_origin, options.cors_origin)),
        log_requests=options.log_requests,
        media_hosts=tuple(options.media_domain),
        media_limits={**DEFAULT_LIMITS, **dict(options.limit_mm)},
    )


def _default_name(options: argparse.Namespace) -> str:
    """A name that tells stand-ins from the model."""
    if options.load_format == "generated":
        return f"{_MODEL_NAME}-generated"
    return _MODEL_NAME if options.model else f"{_MODEL_NAME}-tiny"


def read_key_ring(options: argparse.Namespace, environ: Mapping[str, str]) -> KeyRing:
    """Keys of the file and of the environment together.

    Raises:
        ConfigError: the file cannot be used.
    """
    from engine.server.auth import KeyRing, read_keys

    keys = re.split(r"[\s,]+", environ.get(KEY_VARIABLE, "").strip())
    if options.api_key_file is not None:
        keys += read_keys(options.api_key_file)
    return KeyRing(filter(None, keys))


def _follow(options: argparse.Namespace, place: HostRank) -> int:
    from engine.runtime.hosts import follow

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # torchrun passes them on to all; rank 0 drains and then lets us go
    return follow(make_config(options, _find_model(options), place), place)


def prepare(options: argparse.Namespace, place: HostRank | None = None) -> Prepared:
    """Find the model on disk, downloading or writing it if need be, and read its tokenizer.

    Raises:
        ConfigError: one of them cannot be had.
    """
    from engine.inputs.processor_config import MediaConfig
    from engine.model_config import load_model_config
    from engine.server.serve import Prepared

    path = _find_model(options)
    speech = _find_speech(options, path)
    if options.speech == "only":
        return Prepared(None, None, None, speech)
    config = make_config(options, path, place)
    tokenizer = None if options.skip_tokenizer else _load_tokenizer(options.tokenizer or path)
    media = MediaConfig.load(_find_processor(options, path), load_model_config(path))
    return Prepared(config, tokenizer, media, speech)


def make_config(options: argparse.Namespace, path: Path, place: HostRank | None) -> EngineConfig:
    """Options of the model side, for the checkpoint in `path`.

    Raises:
        ConfigError: `--tp` is not the number of ranks that there are.
    """
    return EngineConfig(
        model=str(path),
        processor=str(_find_processor(options, path)),
        tokenizer=None if options.skip_tokenizer else str(options.tokenizer or path),
        device=options.device,
        dtype=options.dtype,
        load_format=options.load_format,
        quant=options.quant,
        tp=choose_tp(options.tp, place),
        max_model_len=options.max_model_len,
        block_size=options.block_size,
        kv_tokens=options.kv_tokens,
        memory_fraction=options.memory_fraction,
        step_tokens=options.step_tokens,
        step_requests=options.max_num_seqs,
        num_threads=options.threads,
        audio_batching=options.audio_batching,
        eager=options.eager,
        tower_graphs=options.tower_graphs,
        peer_sums=not options.no_peer_sums,
        torchrun=place,
    )


def _find_speech(options: argparse.Namespace, path: Path) -> SpeechOptions | None:
    from engine.talker_config import find_talker

    talker = None if options.speech == "off" or options.load_format == "generated" else find_talker(path)
    if talker is None and options.speech == "only":
        raise ConfigError(f"--speech only: {path} has no talker/ folder and is none; name a checkpoint with a talker")
    if talker is None or (options.skip_tokenizer and options.speech == "auto"):
        return None
    device = options.talker_device or options.device
    return SpeechOptions(
        str(talker),
        device,
        options.talker_slots,
        options.threads,
        options.voices,
        options.speaker_encoder,
        options.vae_encoder_layers,
        options.speech_segments,
        options.speech_slack,
    )


def _find_processor(options: argparse.Namespace, path: Path) -> Path:
    """Tokenizer and processor files travel together, and a snapshot may lack both."""
    has_one = (path / "preprocessor_config.json").is_file()
    return path if options.tokenizer is None or has_one else Path(options.tokenizer)


def _find_model(options: argparse.Namespace) -> Path:
    if options.model is None and options.load_format == "generated":
        from engine.released import ensure_geometry

        return ensure_geometry(options.cache_dir)
    if options.model is None:
        from engine.tiny import ensure_snapshot

        return ensure_snapshot(options.cache_dir)
    from engine.hub import resolve

    return resolve(options.model, options.revision)


def _check_directory(options: argparse.Namespace) -> None:
    """Refuse a directory that is no model before a port is announced; what the hub has to be asked for comes later.

    Raises:
        ConfigError: it does not exist, or has no configuration that can be read.
    """
    if options.model is None:
        return
    from engine.hub import may_be_repository
    from engine.model_config import load_model_config

    if may_be_repository(options.model):
        return
    path = _find_model(options)
    if options.speech == "only":
        _find_speech(options, path)
    else:
        load_model_config(path)


def _load_tokenizer(path: Path) -> Tokenizer:
    from engine.inputs.template_check import warn_of_foreign_template
    from engine.inputs.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    warn_of_foreign_template(tokenizer)
    return tokenizer


def _require_consent(options: argparse.Namespace) -> None:
    if not options.allow_no_key:
        raise ConfigError(
            f"--host {options.host} can be reached from other machines: give keys with --api-key-file or "
            f"{KEY_VARIABLE}, or say --allow-no-key"
        )
    log.warning("serving on %s without a key: whoever reaches the port can use it", options.host)


if __name__ == "__main__":
    sys.exit(main())
