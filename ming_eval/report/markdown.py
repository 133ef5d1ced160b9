"""`summary.md`: the table, what it shows, and how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from ming_eval.manifest import Host, Manifest, command_line
from ming_eval.report.grid import number
from ming_eval.report.observations import observations
from ming_eval.report.sweep_table import sweep_grid
from ming_eval.results import Backend, Summary

_LEGEND = (
    "Times in milliseconds unless the header says s. c: requests in flight. E2E: sent to last output; TTFT: sent to "
    "first output; TPOT: mean over requests of the time per output token after the first event; ITL: token-weighted "
    "gap between tokens. Failed requests enter no latency and no rate."
)


def sweep_markdown(summary: Summary, manifest: Manifest) -> str:
    """The whole document."""
    sections = [
        f"# {_title(summary)}",
        *_warnings(summary),
        sweep_grid(summary).markdown().rstrip(),
        _LEGEND,
        "## Observations",
        _bullets(observations(summary)),
        "## How to repeat it",
        f"```sh\n{command_line(summary.command)}\n```",
        _bullets(_facts(summary, manifest)),
    ]
    return "\n\n".join(sections) + "\n"


def _title(summary: Summary) -> str:
    return "Sweep of " + ", ".join(_named(backend) for backend in summary.backends)


def _named(backend: Backend) -> str:
    return f"{backend.name} ({backend.model})" if backend.model else backend.name


def _warnings(summary: Summary) -> list[str]:
    verdict = summary.verdict
    if summary.partial:
        return [f"> **Partial: {verdict.reason or verdict.status}.** The points below are what there was."]
    return [f"> **{verdict.reason}.**"] if verdict.exit_code != 0 and verdict.reason else []


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _facts(summary: Summary, manifest: Manifest) -> list[str]:
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in summary.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    git = manifest.git
    commit = f"; commit {git.commit[:12]}{' with local changes' if git.dirty else ''}" if git else ""
    return [
        *(f"Server {_server(backend)}" for backend in summary.backends),
        f"Settings: {settings}",
        f"Host: {_machine(manifest.host)}",
        f"Software: {versions}{commit}",
        f"Run {summary.run}, from {summary.started} to {summary.finished}",
    ]


def _server(backend: Backend) -> str:
    where = "the bundled engine, started for this run" if backend.launched else backend.url
    version = f", version {backend.version}" if backend.version else ""
    headers = f", headers {', '.join(backend.header_names)} (values not kept)" if backend.header_names else ""
    return f"{_named(backend)}: {where}{version}, dialect {backend.dialect}{headers}"


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "default" if value is None else str(value)


def _machine(host: Host) -> str:
    memory = f", {number(host.memory_bytes / 2**30)} GiB" if host.memory_bytes else ""
    gpus = "".join(f"; GPU {gpu.name} {gpu.memory}, driver {gpu.driver}" for gpu in host.gpus)
    return f"{host.cpu}, {host.num_usable_cpus} of {host.num_cpus} CPUs{memory}, {host.system}{gpus}"
