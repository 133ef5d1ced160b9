"""`python -m tests.engine.server.fake_server MODE [options]`: the real server process over a fake engine process."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace

import uvloop

from engine.__main__ import make_launch
from engine.config import EngineConfig
from engine.inputs.processor_config import MediaConfig
from engine.server.http import bind
from engine.server.options import make_parser
from engine.server.serve import Prepared, serve
from tests.engine.server.fake_engine import TOKENIZER


def main(mode: str, arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO)
    options = make_parser().parse_args(arguments)
    launch = replace(
        make_launch(options, {}),
        prepare=lambda: Prepared(EngineConfig("/no/model"), TOKENIZER, MediaConfig()),
        engine_command=(sys.executable, "-m", "tests.engine.server.fake_process", mode),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(launch, bind(options.host, options.port)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
