"""A stand-in for the bundled engine: a package called `engine` in a folder of the test's own.

It takes the options of the real one that the harness uses, tells what it was started with, and answers like
`FakeServer`. What it does besides is up to the environment variable FAKE_ENGINE.
"""

from __future__ import annotations

from pathlib import Path

_MAIN = """
import asyncio, json, os, signal, sys, threading
from pathlib import Path

from tests.fakes import FakeServer, Script

mode = os.environ.get("FAKE_ENGINE", "")
if mode == "silent":
    sys.exit(1)
print("fake engine starts", "MING_API_KEY" in os.environ, flush=True)


def leave(number, frame):
    print("signal", number, flush=True)
    with open("engine-signals", "a") as file:
        file.write(f"{number}\\n")
    if mode != "stubborn":
        os._exit(7)


def end_with(parent_fd):
    os.read(parent_fd, 1)
    Path("engine-orphaned").touch()
    os._exit(0)


options = dict(zip(sys.argv[1:], sys.argv[2:]))
if "--parent-fd" in options:
    threading.Thread(target=end_with, args=(int(options["--parent-fd"]),), daemon=True).start()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, leave)
Path("engine-args.json").write_text(json.dumps(sys.argv[1:]))
Path("engine-pid").write_text(str(os.getpid()))  # last: from here on signals are seen


async def main():
    card = {"id": "tiny", "checkpoint_digest": os.environ.get("FAKE_CHECKPOINT")}
    body = {"object": "list", "data": [card]}
    async with FakeServer(Script(gap_s=0.001), models_body=body, health_status=503) as server:
        if "--port-file" in options:
            Path(options["--port-file"]).write_text(f"{server.port}\\n")
        if mode == "dies":
            sys.exit("no memory left for the weights")
        if mode == "refuses":
            print("error: --model nowhere: there is no such folder", flush=True)
            sys.exit(2)
        await asyncio.sleep(60 if mode == "slow" else 0.3)
        server.health_status = 200
        if mode == "falls":  # at the third request
            while len(server.chats) < 3:
                await asyncio.sleep(0.001)
            print("CUDA error: out of luck", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)


asyncio.run(main())
"""


def install(folder: Path) -> None:
    """Make `python -m engine`, run in `folder`, start the stand-in."""
    package = folder / "engine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_MAIN, encoding="utf-8")
