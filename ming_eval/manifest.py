"""`manifest.json`: what one would need to know to repeat a run or to doubt it. Holds no secrets."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ming_eval import results
from ming_eval.errors import DataError
from ming_eval.results import FORMAT, Backend

_PACKAGES = ("ming-eval", "aiohttp", "httptools", "msgspec", "numpy", "uvloop", "torch", "transformers", "triton")
_SECRET_OPTIONS = ("--header",)
_SERVER_OPTIONS = ("--backend", "--model", "--dialect", "--header", "--api-key-env")
_COMMAND_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of this host, as `nvidia-smi` describes it."""

    name: str
    memory: str
    driver: str


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that the client runs on; for a launched server also the server's."""

    system: str
    machine: str
    python: str
    cpu: str
    num_cpus: int
    num_usable_cpus: int
    memory_bytes: int | None
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class Git:
    """State of the working tree that this program comes from."""

    commit: str
    dirty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of `manifest.json`. Written when the run starts and again when it has ended; `finished` is None until then.

    `settings` is the plan as the command line and the profile gave it, `engine_args` what the bundled engine was
    started with, `note` what the user wants remembered, such as how a server was started. The clock zero of
    `requests.jsonl` is `started`.
    """

    format: int = FORMAT
    run: str
    command: tuple[str, ...]
    started: str
    finished: str | None
    seed: int
    settings: Mapping[str, Any]
    backends: tuple[Backend, ...]
    versions: Mapping[str, str]
    git: Git | None
    host: Host
    engine_args: tuple[str, ...] = ()
    note: str | None = None


def read(folder: Path) -> Manifest:
    """The manifest of a run.

    Raises:
        DataError: there is none that this version reads.
    """
    return results.decode_versioned(folder / "manifest.json", Manifest)


def other_kind(manifest: Manifest, wanted: str, unread: Exception) -> DataError:
    """What to raise where `wanted` settings were looked for in a run whose settings are `unread`able as such.

    A run of another command says so by its name; only in one of the right kind does it help to know which field is off.
    """
    made_by = next(iter(manifest.command[1:]), None)
    why = unread if made_by is None or made_by == wanted else f"`ming-eval {made_by}` made it"
    return DataError(f"run {manifest.run} is no run of `ming-eval {wanted}`: {why}")


def write(manifest: Manifest, folder: Path) -> None:
    """Write or replace the manifest of a run."""
    results.write_whole(folder / "manifest.json", results.encode(manifest))


def utc_now() -> str:
    """The present as an ISO 8601 string in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_s(manifest: Manifest) -> float:
    """Seconds since the run was started."""
    return (datetime.now(UTC) - datetime.fromisoformat(manifest.started)).total_seconds()


def redacted_command(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line with header values and whatever a URL carries besides its place taken out."""
    shown = ["ming-eval"]
    secret_next = False
    for word in argv:
        name, equals, value = word.partition("=")
        if secret_next:
            shown.append(_header_name_only(word))
        elif name in _SECRET_OPTIONS and equals:
            shown.append(f"{name}={_header_name_only(value)}")
        else:
            shown.append(_plain_url(word))
        secret_next = word in _SECRET_OPTIONS
    return tuple(shown)


def with_servers_of(command: Sequence[str], now: Sequence[str]) -> tuple[str, ...]:
    """`command` with the servers that `now` names, instead of its own or of the options of a bundled engine."""
    kept = command[: command.index("--")] if "--" in command else command
    own = (word for word, is_server in _server_words(kept) if not is_server)
    return (*own, *(word for word, is_server in _server_words(now) if is_server))


def _server_words(command: Sequence[str]) -> list[tuple[str, bool]]:
    """Each word, and whether it is an option that says which server is asked and how, or the value of one."""
    words, is_value = [], False
    for word in command:
        name, equals, _ = word.partition("=")
        is_option = not is_value and name in _SERVER_OPTIONS
        words.append((word, is_value or is_option))
        is_value = is_option and not equals
    return words


def command_line(command: Sequence[str]) -> str:
    """`command` as one would type it."""
    return shlex.join(command)


def versions() -> dict[str, str]:
    """Versions of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(file: Path = Path(__file__)) -> Git | None:
    """Commit of the working tree that `file` is tracked in, None where it is in none or git is missing."""
    folder = str(file.parent)
    if _output(["git", "-C", folder, "ls-files", "--error-unmatch", file.name]) is None:
        return None  # an installed package inside somebody else's repository
    commit = _output(["git", "-C", folder, "rev-parse", "HEAD"])
    # Without its optional lock: a run that is killed here must not leave one in the user's repository.
    changes = _output(["git", "--no-optional-locks", "-C", folder, "status", "--porcelain"])
    return Git(commit, dirty=bool(changes)) if commit else None


def this_host() -> Host:
    """Describe this machine."""
    return Host(
        system=platform.platform(),
        machine=platform.machine(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cpu=_cpu_name(),
        num_cpus=os.cpu_count() or 1,
        num_usable_cpus=_usable_cpus(),
        memory_bytes=_memory_bytes(),
        gpus=_gpus(),
    )


def _header_name_only(header: str) -> str:
    name, colon, _ = header.partition(":")
    return f"{name}: ***" if colon else "***"


def _plain_url(word: str) -> str:
    """`word` without the user, password, query and fragment of a URL in it."""
    word = re.sub(r"(https?://)[^/?#@]*@", r"\1", word)
    return re.sub(r"(https?://[^?#]*)[?#].*", r"\1", word)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    rows = [line.split(", ") for line in (_output(query) or "").splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 3)


def _output(command: list[str]) -> str | None:
    """What a helper program prints, None when it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
