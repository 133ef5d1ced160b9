"""Sections of the HTML page that show a coverage run: its tables, and each case with its media and its answer."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

from ming_eval.manifest import Manifest, command_line
from ming_eval.report.coverage_table import case_grid, modality_grid
from ming_eval.report.document import facts
from ming_eval.report.grid import number
from ming_eval.report.html import Section, bullet_list, data_url, note, table, warning
from ming_eval.report.media_page import MAX_EMBEDDED_BYTES, player
from ming_eval.results import CoverageCase, CoverageSummary, InputFile


def coverage_sections(folder: Path, manifest: Manifest, summary: CoverageSummary) -> list[Section]:
    """Modalities, cases and how to repeat it; media are embedded."""
    verdict = summary.verdict
    doubts = warning(f"{verdict.status}: {verdict.reason}") if verdict.exit_code != 0 else ""
    cases = "".join(_case(folder, case) for case in summary.cases)
    repeat = f"<pre>{escape(command_line(summary.command))}</pre>{bullet_list(facts(summary, manifest))}"
    notes = note("Times in milliseconds. media tok: prompt tokens that the media added. Click a header to sort.")
    return [
        Section("modalities", "Modalities", doubts + table(modality_grid(summary)) + notes),
        Section("figures", "Cases", table(case_grid(summary))),
        Section("answers", "Questions and answers", f'<div class="cards">{cases}</div>'),
        Section("repeat-coverage", "How to repeat the coverage run", repeat),
    ]


def _case(folder: Path, case: CoverageCase) -> str:
    inputs = "".join(_input(file) for file in case.inputs)
    answer = f"<blockquote>{escape(case.output)}</blockquote>" if case.output else ""
    reason = f'<p class="note">{escape(case.reason)}</p>' if case.reason else ""
    times = f"TTFT {number(case.ttft_ms)} ms, E2E {number(case.e2e_ms)} ms"
    return (
        f'<div class="card"><div class="name">{escape(case.modality)} {escape(case.id)}'
        f'<span class="status {escape(case.status)}">{escape(case.status)}</span></div>'
        f'<div class="model">{escape(case.backend)}, {times}</div><div class="media">{inputs}</div>'
        f"<div>{escape(case.prompt)}</div>{answer}{_speech(folder, case)}{reason}</div>"
    )


def _input(file: InputFile) -> str:
    """What was sent, where it is one of the bundled files; a line that describes it otherwise."""
    path = resources.files("suites").joinpath("coverage", "media", file.name)
    if not path.is_file() or file.bytes > MAX_EMBEDDED_BYTES:
        return f'<span class="note">{escape(file.name)} ({file.bytes} bytes)</span>'
    return player(file.kind, data_url(path.read_bytes(), file.mime), file.name)


def _speech(folder: Path, case: CoverageCase) -> str:
    if case.audio_file is None:
        return ""
    path = folder / case.audio_file
    if path.suffix != ".wav" or not path.is_file() or path.stat().st_size > MAX_EMBEDDED_BYTES:
        return f'<p class="note">speech in {escape(case.audio_file)}</p>'
    return f'<div class="media">{player("audio", data_url(path.read_bytes(), "audio/wav"), "answer")}</div>'
