"""A stand-in for the bundled engine: a package called `engine` in a folder of the test's own.

It takes the options of the real one that the harness uses, tells what it was started with, and answers like
`FakeServer`. What it does besides is up to the environment variable FAKE_ENGINE.
"""

from __future__ import annotations

from pathlib import Path

_MAIN = """
import asyncio, json, os, signal, sys, time
from pathlib import Path

from tests.fakes import FakeServer, Script

mode = os.environ.get("FAKE_ENGINE", "")
print("fake engine starts", "MING_API_KEY" in os.environ, flush=True)


def leave(number, frame):
    print("signal", number, flush=True)
    with open("engine-signals", "a") as file:
        file.write(f"{number}\\n")
    if mode != "stubborn":
        os._exit(7)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, leave)
Path("engine-args.json").write_text(json.dumps(sys.argv[1:]))
Path("engine-pid").write_text(str(os.getpid()))  # last: from here on signals are seen


async def main():
    async with FakeServer(Script(gap_s=0.001), models=("tiny",), health_status=503) as server:
        options = dict(zip(sys.argv[1:], sys.argv[2:]))
        if "--port-file" in options:
            Path(options["--port-file"]).write_text(f"{server.port}\\n")
        if mode == "dies":
            sys.exit("no memory left for the weights")
        await asyncio.sleep(60 if mode == "slow" else 0.3)
        server.health_status = 200
        await asyncio.sleep(60)


asyncio.run(main())
"""


def install(folder: Path) -> None:
    """Make `python -m engine`, run in `folder`, start the stand-in."""
    package = folder / "engine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_MAIN, encoding="utf-8")
