"""Parts that every `summary.md` has: how the run ended, how to repeat it, what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from ming_eval.manifest import Host, Manifest, command_line
from ming_eval.report.grid import number
from ming_eval.results import Backend, RunSummary


def named(backend: Backend) -> str:
    """A server with its model."""
    return f"{backend.name} ({backend.model})" if backend.model else backend.name


def warnings(summary: RunSummary) -> list[str]:
    """What a reader must know before the figures."""
    verdict = summary.verdict
    if summary.partial:
        return [f"> **Partial: {verdict.reason or verdict.status}.** What follows is what there was."]
    return [f"> **{verdict.reason}.**"] if verdict.exit_code != 0 and verdict.reason else []


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def how_to_repeat(summary: RunSummary, manifest: Manifest) -> list[str]:
    """The sections that end the document: the command, and what it ran on."""
    return [
        "## How to repeat it",
        f"```sh\n{command_line(summary.command)}\n```",
        bullets(facts(summary, manifest)),
    ]


def facts(summary: RunSummary, manifest: Manifest) -> list[str]:
    """Servers, settings, host and software, a line each."""
    settings = ", ".join(f"{name} {setting(value)}" for name, value in summary.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    git = manifest.git
    commit = f"; commit {git.commit[:12]}{' with local changes' if git.dirty else ''}" if git else ""
    return [
        *(f"Server {_server(backend)}" for backend in summary.backends),
        *([f"Note: {manifest.note}"] if manifest.note else []),
        f"Settings: {settings}",
        f"Host: {_machine(manifest.host)}",
        f"Software: {versions}{commit}",
        f"Run {summary.run}, from {summary.started} to {summary.finished}",
    ]


def _server(backend: Backend) -> str:
    where = "the bundled engine, started for this run" if backend.launched else backend.url
    version = f", version {backend.version}" if backend.version else ""
    headers = f", headers {', '.join(backend.header_names)} (values not kept)" if backend.header_names else ""
    return f"{named(backend)}: {where}{version}, dialect {backend.dialect}{headers}"


def setting(value: object) -> str:
    """A setting's value for people; `default` where nothing was given."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return "default" if value is None else str(value)


def _machine(host: Host) -> str:
    memory = f", {number(host.memory_bytes / 2**30)} GiB" if host.memory_bytes else ""
    gpus = "".join(f"; GPU {gpu.name} {gpu.memory}, driver {gpu.driver}" for gpu in host.gpus)
    return f"{host.cpu}, {host.num_usable_cpus} of {host.num_cpus} CPUs{memory}, {host.system}{gpus}"
