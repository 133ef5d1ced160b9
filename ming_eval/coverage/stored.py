"""Cases of a stored run, from its requests and answers: for a run that was killed before it summed itself up."""

from __future__ import annotations

from pathlib import Path

from ming_eval.coverage.case_result import case_result
from ming_eval.coverage.cases import Case, CaseSet
from ming_eval.coverage.plan import read_plan
from ming_eval.errors import DataError
from ming_eval.manifest import Manifest
from ming_eval.results import CoverageCase
from ming_eval.run_folder import SavedReply, audio_file, read_records, read_replies
from ming_eval.types import Reply, RequestRecord, Task


def stored_results(folder: Path, manifest: Manifest, cases: CaseSet) -> list[CoverageCase]:
    """Every case that has ended, its control included, in the order in which they ran.

    Raises:
        DataError: the run cannot be read, or its cases are no longer the bundled ones.
    """
    version = read_plan(manifest).cases_version
    if version != cases.version:
        raise DataError(f"{folder} ran version {version} of the cases, this is version {cases.version}: run it again")
    records = {(record.backend, record.id): record for record in read_records(folder)}
    saved = {
        backend.name: {
            name: reply for task in Task for name, reply in read_replies(folder, backend.name, 1, task=task).items()
        }
        for backend in manifest.backends
    }
    by_id = {case.id: case for case in cases.cases}
    found = []
    for (backend, request_id), record in records.items():
        case = by_id.get(request_id)
        control = records.get((backend, f"{request_id}-control"))
        if case is not None and (control is not None or not case.media):
            found.append(_result(folder, case, record, control, saved[backend].get(request_id)))
    return found


def _result(
    folder: Path, case: Case, record: RequestRecord, control: RequestRecord | None, saved: SavedReply | None
) -> CoverageCase:
    path = audio_file(record)
    audio = (folder / path).read_bytes() if record.num_audio_bytes and (folder / path).exists() else b""
    text, reasoning = (saved.text, saved.reasoning) if saved is not None else ("", "")
    return case_result(case, Reply(record, text, reasoning, audio), control, path if audio else None)
