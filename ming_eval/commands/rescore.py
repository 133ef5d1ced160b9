"""`ming-eval rescore`: the stored replies of an accuracy run, read by the rules of this version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show

if TYPE_CHECKING:
    from ming_eval.accuracy_results import AccuracySummary, ItemResult

EXAMPLES = """
\b
Examples:
  ming-eval rescore results/20260615T101500Z-accuracy-mine
      no server is asked; summary and items of the run are written again
  ming-eval rescore 20260615T101500Z-accuracy-mine --json changes.json
  ming-eval rescore 20260615T101500Z-accuracy-mine --speaker-encoder wavlm-large=embeddings.jsonl
      how alike voices are, by embeddings that were computed elsewhere
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A reply that is worth something else than before."""

    suite: str
    id: str
    repeat: int
    rotation: int
    before: str
    after: str
    extracted_before: str | None
    extracted_after: str | None


@dataclass(frozen=True, slots=True)
class Rescored:
    """What `--json` writes."""

    summary: AccuracySummary
    changes: tuple[Change, ...]


def rescore(
    run: Annotated[str, typer.Argument(metavar="RUN", help="An accuracy run's folder, or its name.")],
    speaker_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=FILE",
            help="How alike voices are, of a speech suite: an .onnx speaker encoder, or a .jsonl of {path, embedding} "
            "for the files in audio/ and the voices. [default: the run's own]",
        ),
    ] = None,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Score the stored replies of a run again, without a server."""
    with exit_on_error():
        from ming_eval.report.accuracy_table import accuracy_text
        from ming_eval.run_folder import find_run

        rescored = rescore_run(find_run(run, out), speaker_encoder)
        text = accuracy_text(rescored.summary) + "\n" + changes_text(rescored.changes)
        show(text, rescored, json_path)


def rescore_run(folder: Path, speaker_encoder: str | None = None) -> Rescored:
    """Score a run again and write its summary and items; `speaker_encoder` and new digests go into the manifest.

    Raises:
        DataError: the run, its suites or its data cannot be read, or are not what they were.
    """
    from ming_eval import manifest as manifests
    from ming_eval.commands.accuracy_run import write_summary
    from ming_eval.commands.stored_answers import read_answers
    from ming_eval.evals.item_lines import read_items
    from ming_eval.evals.similarity import load_encoder

    manifest = manifests.read(folder)
    before = read_items(folder)
    stored = read_answers(folder, manifest, before)
    chosen = speaker_encoder or manifest.settings.get("speaker_encoder")
    encoder = None if chosen is None else load_encoder(chosen)
    changed: dict[str, object] = {"protocol_hashes": list(stored.protocol_hashes)}  # so that the run can go on
    if speaker_encoder is not None:
        changed["speaker_encoder"] = speaker_encoder
    manifest = replace(manifest, settings={**manifest.settings, **changed})
    summary = write_summary(folder, manifest, stored.answers, stored.verdict, stored.max_error_rate, encoder)
    manifests.write(manifest, folder)
    return Rescored(summary, tuple(changes(before, read_items(folder))))


def accuracy_summary(folder: Path) -> AccuracySummary:
    """The summary of an accuracy run, made from its replies where the run was killed.

    Raises:
        DataError: the run cannot be read.
    """
    from ming_eval.accuracy_results import read_accuracy

    return read_accuracy(folder) if (folder / "summary.json").exists() else rescore_run(folder).summary


def changes(before: Sequence[ItemResult], after: Sequence[ItemResult]) -> list[Change]:
    """Replies whose outcome or extracted answer differs."""
    old = {(each.backend, *each.key): each for each in before}
    pairs = [(old[key], each) for each in after if (key := (each.backend, *each.key)) in old]
    return [
        Change(now.suite, now.id, now.repeat, now.rotation, was.outcome, now.outcome, was.extracted, now.extracted)
        for was, now in pairs
        if (was.outcome, was.extracted) != (now.outcome, now.extracted)
    ]


def changes_text(found: Sequence[Change]) -> str:
    """How many replies changed, by what they were and became, and the first of them."""
    if not found:
        return "no reply is scored differently\n"
    kinds = Counter(f"{change.before} -> {change.after}" for change in found)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    lines = [f"{len(found)} replies are scored differently: {counts}"]
    lines += [
        f"  {each.suite} {each.id}: {each.before} ({each.extracted_before}) -> {each.after} ({each.extracted_after})"
        for each in found[:20]
    ]
    return "\n".join(lines) + "\n"
