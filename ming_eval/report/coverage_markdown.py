"""`summary.md` of a coverage run: what works, how fast, and what was answered."""

from __future__ import annotations

from ming_eval.manifest import Manifest
from ming_eval.report.coverage_table import case_grid, caveats, has_speech, modality_grid
from ming_eval.report.document import bullets, how_to_repeat, named, warnings
from ming_eval.results import CoverageCase, CoverageSummary

_LEGEND = (
    "Times in milliseconds unless the header says s. TTFT: sent to first output; E2E: sent to last output; TPOT: time "
    "per output token after the first event; tok/s: output tokens over E2E. A modality's times are means over the "
    "cases that passed, its token counts sums. A case passes when the reply is complete and its media added prompt "
    "tokens (`media tok`) to the same prompt without them. `mentions` counts what a good answer names; it decides "
    "nothing."
)
_SPEECH_LEGEND = (
    "TTFA: sent to first audio samples. RTF: time from sending to the last audio, per second of audio; RTF gen: the "
    "same from the first audio. Stalls: how often a player that starts at once runs dry; pre-buffer: the shortest wait "
    "with which it never does."
)


def coverage_markdown(summary: CoverageSummary, manifest: Manifest) -> str:
    """The whole document."""
    sections = [
        f"# Coverage of {', '.join(named(backend) for backend in summary.backends)}",
        *warnings(summary),
        modality_grid(summary).markdown().rstrip(),
        f"{_LEGEND} {_SPEECH_LEGEND}" if has_speech(summary) else _LEGEND,
        *_missed(summary),
        "## Cases",
        case_grid(summary).markdown().rstrip(),
        "## Answers",
        *(f"{caveat[0].upper()}{caveat[1:]}." for caveat in caveats(summary)),
        *(_answer(case) for case in summary.cases),
        *how_to_repeat(summary, manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _missed(summary: CoverageSummary) -> list[str]:
    lines = [f"{case.backend} `{case.id}`: {case.status}, {case.reason}" for case in summary.cases if case.reason]
    return ["## Not passed", bullets(lines)] if lines else []


def _answer(case: CoverageCase) -> str:
    """Prompt and answer of one case, fenced: an answer may hold any Markdown."""
    files = "".join(f"`{file.name}`, " for file in case.inputs)
    said = case.output.strip() or "(no text)"
    audio = f"\n\n`{case.audio_file}`" if case.audio_file else ""
    fence = "`" * max(3, _longest_run(said) + 1)
    return f"**{case.backend} {case.id}**: {files}{case.prompt}\n\n{fence}text\n{said}\n{fence}{audio}"


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return longest
