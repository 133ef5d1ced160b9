"""A coverage run as tables: one row per modality, one per case."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ming_eval.report.grid import MISSING, Grid, number
from ming_eval.results import CoverageCase, CoverageSummary, InputFile, ModalityResult

_NOTE = (
    "times in ms unless the header says s; passed/planned cases; media tok: prompt tokens that the media added; "
    "tok/s: output tokens over E2E; figures of a modality are of the cases that passed"
)
_SPEECH_NOTE = "RTF: time per second of audio, from sending and from the first audio; pre-buffer: without a stall"
_EMBEDDED_NOTE = "answers are of the embedded tiny model: its weights are random, they mean nothing"
_LINE_CHARS = 100
_EXCERPT_CHARS = 70


def coverage_text(summary: CoverageSummary) -> str:
    """What `coverage` and `report` print: both tables, the answers, and what did not pass."""
    notes = [_NOTE, *([_SPEECH_NOTE] if has_speech(summary) else []), *caveats(summary)]
    lines = [modality_grid(summary).text(), case_grid(summary).text(), *map(_filled, notes), ""]
    lines += [_filled(f"{name}: {excerpt(case)}", "- ") for name, case in _named(summary.cases)]
    if missed := [_filled(f"{name}: {_why(case)}", "- ") for name, case in _named(summary.cases) if case.reason]:
        lines += ["", "not passed", *missed]
    verdict = summary.verdict
    if verdict.exit_code != 0:
        partial = "; the figures above are partial" if summary.partial else ""
        lines += ["", f"{verdict.status}: {verdict.reason}{partial}"]
    return "\n".join(lines) + "\n"


def modality_grid(summary: CoverageSummary) -> Grid:
    """One row per server and modality."""
    header = ["backend", "modality", "status", "passed", "TTFT", "TPOT", "E2E", "tok/s", "prompt tok", "media tok"]
    header += ["input kB"]
    if speaks := has_speech(summary):
        header += ["TTFA", "RTF", "RTF gen", "stalls", "pre-buffer", "audio s"]
    return Grid(header, [_modality_row(row, speaks) for row in summary.modalities], num_labels=3)


def case_grid(summary: CoverageSummary) -> Grid:
    """One row per server and case."""
    header = ["backend", "case", "status", "input", "TTFT", "TPOT", "E2E", "out tok", "tok/s", "prompt tok"]
    header += ["media tok", "mentions"]
    if speaks := has_speech(summary):
        header += ["TTFA", "RTF", "RTF gen", "stalls", "pre-buffer", "audio s", "Hz"]
    return Grid(header, [_case_row(case, speaks) for case in summary.cases], num_labels=4)


def has_speech(summary: CoverageSummary) -> bool:
    """True when a modality that speaks was asked for."""
    return any(row.modality.endswith("S") for row in summary.modalities)


def caveats(summary: CoverageSummary) -> list[str]:
    """What a reader of the answers must know."""
    is_bundled = any(backend.launched for backend in summary.backends)
    is_embedded = is_bundled and not any(word.partition("=")[0] == "--model" for word in summary.command)
    return [_EMBEDDED_NOTE] if is_embedded else []


def case_line(case: CoverageCase) -> str:
    """A case that has just ended, in one line."""
    if case.reason is not None:
        return f"{case.backend} {case.id}: {_why(case)}"
    figures = [f"TTFT {number(case.ttft_ms)} ms", f"{number(case.output_tokens_per_s)} tok/s"]
    if case.audio_s is not None:
        figures.append(f"{number(case.audio_s)} s of audio, RTF {number(case.rtf)}")
    return f"{case.backend} {case.id}: {', '.join([case.status, *figures])}"


def excerpt(case: CoverageCase) -> str:
    """The beginning of the answer in one line, or that there is none."""
    text = " ".join(case.output.split())
    return f'"{text if len(text) <= _EXCERPT_CHARS else text[:_EXCERPT_CHARS] + "…"}"' if text else "no text"


def input_text(inputs: Sequence[InputFile]) -> str:
    """What was sent besides the prompt: `320x240 PNG`, `2 s WAV`, `320x240 3 s MP4`."""
    return " + ".join(_file_text(file) for file in inputs) or "text"


def _file_text(file: InputFile) -> str:
    pixels = [f"{file.width}x{file.height}"] if file.width is not None else []
    seconds = [f"{file.duration_s:g} s"] if file.duration_s is not None else []
    return " ".join([*pixels, *seconds, file.name.rpartition(".")[2].upper()])


def _modality_row(row: ModalityResult, speaks: bool) -> list[str]:
    cells = [row.backend, row.modality, row.status, f"{row.passed}/{row.planned}"]
    cells += [number(row.ttft_ms), number(row.tpot_ms), number(row.e2e_ms), number(row.output_tokens_per_s)]
    cells += [_count(row.prompt_tokens), _count(row.media_tokens)]
    cells += [number(row.input_bytes / 1000) if row.input_bytes else MISSING]
    return cells + (_speech_cells(row) if speaks else [])


def _case_row(case: CoverageCase, speaks: bool) -> list[str]:
    cells = [case.backend, case.id, case.status, input_text(case.inputs)]
    cells += [number(case.ttft_ms), number(case.tpot_ms), number(case.e2e_ms), _count(case.output_tokens)]
    cells += [number(case.output_tokens_per_s), _count(case.prompt_tokens), _count(case.media_tokens)]
    cells += [f"{len(case.mentioned)}/{len(case.mentions)}" if case.mentions else MISSING]
    return cells + ([*_speech_cells(case), _count(case.sample_rate_hz)] if speaks else [])


def _speech_cells(row: ModalityResult | CoverageCase) -> list[str]:
    rates = [number(row.ttfa_ms), number(row.rtf), number(row.rtf_gen)]
    return [*rates, _count(row.stalls), number(row.prebuffer_ms), number(row.audio_s)]


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _why(case: CoverageCase) -> str:
    return f"{case.status}, {case.reason}"


def _named(cases: Sequence[CoverageCase]) -> list[tuple[str, CoverageCase]]:
    """Cases with a name that is unique in the run."""
    many = len({case.backend for case in cases}) > 1
    return [(f"{case.backend} {case.id}" if many else case.id, case) for case in cases]


def _filled(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, _LINE_CHARS, initial_indent=bullet, subsequent_indent=" " * len(bullet))
