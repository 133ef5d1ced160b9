"""The part of a sweep's page that lets one see what was sent and hear what was answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from ming_eval.media import media_type
from ming_eval.metrics import audio, latency, stats
from ming_eval.report.grid import number
from ming_eval.report.html import data_url
from ming_eval.report.overlay import SweepRun
from ming_eval.run_folder import SAMPLES_FOLDER, audio_file, read_replies
from ming_eval.types import RequestRecord, Task

MAX_EMBEDDED_BYTES = 4_000_000  # of one file: a page must open in a browser
_MAX_SPOKEN = 3  # per backend and task
_MAX_TEXT = 240


def media_cards(runs: Sequence[SweepRun]) -> str:
    """Per run, backend and task: a file that was sent, and answers to listen to; empty where there are none."""
    cards = [card for run in runs if run.folder is not None for card in _cards(run, run.folder)]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def player(kind: str, url: str, name: str) -> str:
    """An image, or controls for sound or video; `url` holds the whole file."""
    label = escape(name)
    if kind == "image":
        return f'<img src="{url}" alt="{label}" title="{label}">'
    return f'<{kind} controls preload="metadata" src="{url}" aria-label="{label}"></{kind}>'


def _cards(run: SweepRun, folder: Path) -> Iterator[str]:
    for backend in run.summary.backends:
        for task in Task:
            mine = [r for r in run.records if (r.backend, r.task) == (backend.name, task) and not r.warmup]
            sent, heard = _sample(folder, task), list(_spoken(folder, mine))
            if mine and (sent or heard):
                name = f'<div class="name">{escape(task.value)}</div><div class="model">{escape(backend.name)}</div>'
                yield f'<div class="card">{name}{sent}{"".join(heard)}</div>'


def _sample(folder: Path, task: Task) -> str:
    for path in sorted((folder / SAMPLES_FOLDER).glob(f"{task.value.lower()}.*")):
        found = media_type(path.name)
        if found is not None and path.stat().st_size <= MAX_EMBEDDED_BYTES:
            kind, mime = found
            shown = player(kind, data_url(path.read_bytes(), mime), f"the first {kind} that was sent")
            return f'<div class="media">{shown}</div><p class="note">the first {kind} that was sent</p>'
    return ""


def _spoken(folder: Path, records: Iterable[RequestRecord]) -> Iterator[str]:
    """Answers whose speech was kept, those of the lowest load first."""
    kept = [record for record in records if (folder / audio_file(record)).is_file()]
    for record in sorted(kept, key=lambda record: (record.rate_per_s or record.concurrency, record.index))[
        :_MAX_SPOKEN
    ]:
        path = folder / audio_file(record)
        if path.suffix == ".wav" and path.stat().st_size <= MAX_EMBEDDED_BYTES:
            reply = read_replies(folder, record.backend, record.concurrency, record.rate_per_s, record.task)
            text = reply[record.id].text if record.id in reply else ""
            said = f"<blockquote>{escape(text[:_MAX_TEXT])}</blockquote>" if text else ""
            yield f'<div class="media">{player("audio", data_url(path.read_bytes(), "audio/wav"), record.id)}</div>'
            yield f'<p class="note">{escape(_figures(record))}</p>{said}'


def _figures(record: RequestRecord) -> str:
    ttfa = latency.ttfa_s(record)
    played = audio.play(audio.stored_pieces(record))
    stalls = f", {played.num_stalls} stalls" if played is not None else ""
    wait = None if ttfa is None else 1000 * ttfa
    length = f"{number(record.audio_s)} s of speech"
    return f"{record.id}: {length}, TTFA {number(wait)} ms, RTF {number(stats.rtf(record))}{stalls}"
